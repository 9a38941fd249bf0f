"""A judge compares KTO-all with DPO, pair by pair and in both orders, on the suites that were drawn on TEST."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.db import session_scope
from app.core.errors import StudioError
from app.evaluations import endpoints
from app.evaluations import job_leases as leases
from app.evaluations.comparisons import candidate_name
from app.models import Comparison, EvalJob, SuiteResult, SuiteSample, SuiteSampleResult, SuiteVersion
from worker.alignment.evaluation.intervals import mean_estimate
from worker.alignment.evaluation.judging import pairwise
from worker.alignment.evaluation.judging.pairwise import Pair, Verdict
from worker.alignment.evaluation.winrate import ArmRows, win_rates
from worker.job_judging import keeper, known_answers
from worker.jobs import Keeper, LostError


@dataclass(frozen=True, slots=True)
class Judged:
    pair: Pair
    category: str


def judge(job_id: int) -> dict[str, Any]:
    """Figures for the page; {} where no judge was chosen or there is nothing to judge, {"error": …} where it could not be
    asked. What it once answered is not asked for again.
    """
    with session_scope() as db:
        job = db.get_one(EvalJob, job_id)
        endpoint_id, project_id = int(job.plan.get("judge") or 0), job.project_id
        found = _pairs(db, job) if endpoint_id else []
        beat = _Beat(job.id, job.attempt, len(found))
    if not found:
        return {}
    lease = Keeper(beat)  # type: ignore[arg-type]  # it only calls beat()
    lease.start()
    try:
        verdicts = _ask(project_id, endpoint_id, [item.pair for item in found])
    except StudioError as error:
        return {"error": f"{error.message} {error.remedy}".strip(), "num_prompts": len(found)}
    finally:
        lease.stop()
    if lease.lost:
        raise LostError
    return summary(found, verdicts)


class _Beat:
    """Keeps the job's lease while the judge takes its time."""

    def __init__(self, job_id: int, attempt: int, total: int) -> None:
        self._job_id, self._attempt, self._total = job_id, attempt, total

    def beat(self, *, now: bool) -> None:
        del now
        with session_scope() as db:
            if not leases.beat(db, self._job_id, self._attempt, phase="judging", done=0, total=self._total):
                raise LostError


def _ask(project_id: int, endpoint_id: int, pairs: Sequence[Pair]) -> list[Verdict]:
    """Answers that say the same are a tie, and nobody is asked."""
    asked = [pair for pair in pairs if pair.first.strip() != pair.second.strip()]
    with session_scope() as db:
        client = endpoints.client_of(endpoints.find_endpoint(db, project_id, endpoint_id))
    with client:
        keys = [request.key(client.settings.model) for pair in asked for request in pairwise.requests_of(pair)]
        cache = known_answers(project_id, endpoint_id, keys)
        verdicts = pairwise.judge(client, asked, cache=cache, report=keeper(project_id, endpoint_id))
    by_id = {verdict.id: verdict for verdict in verdicts}
    return [by_id.get(pair.id) or Verdict(id=pair.id, score=0.5, orders=(0.5, 0.5)) for pair in pairs]


def _pairs(db: Session, job: EvalJob) -> list[Judged]:
    """Of the first seed of both arms, the first answer to each sample of the suites that are no red-teaming."""
    comparison = db.get_one(Comparison, job.comparison_id)
    names = {arm.arm: candidate_name(arm) for arm in reversed(comparison.arms) if arm.is_chosen}
    answers: dict[tuple[int, int], dict[str, str]] = defaultdict(dict)
    prompts: dict[tuple[int, int], tuple[Any, str]] = {}
    sample, answer = SuiteSample, SuiteSampleResult
    query = (
        select(
            SuiteVersion.id,
            SuiteVersion.header,
            SuiteResult.arm,
            sample.number,
            sample.data,
            sample.category,
            answer.text,
        )
        .select_from(answer)
        .join(SuiteResult, SuiteResult.id == answer.result_id)
        .join(SuiteVersion, SuiteVersion.id == SuiteResult.suite_version_id)
        .join(sample, (sample.version_id == SuiteVersion.id) & (sample.number == answer.number))
        .where(SuiteResult.job_id == job.id, answer.repeat == 0, answer.error.is_(None))
        .where(SuiteResult.arm.in_([names.get("kto_all", ""), names.get("dpo", "")]))
        .order_by(SuiteVersion.id, sample.number)
    )
    for version_id, header, arm, number, data, category, text in db.execute(query):
        if header.get("kind", "eval") == "eval":
            answers[version_id, number][arm] = text
            prompts[version_id, number] = (data["input"], category)
    return [
        Judged(
            Pair(id=json.dumps(key), prompt=prompts[key][0], first=texts[names["kto_all"]], second=texts[names["dpo"]]),
            prompts[key][1],
        )
        for key, texts in answers.items()
        if len(texts) == 2
    ]


def summary(found: Sequence[Judged], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Win rate of KTO-all raw and at equal length, by category, and how far the judge can be relied on."""
    told = pairwise.summarise(verdicts)
    scored = [(item, verdict.score) for item, verdict in zip(found, verdicts, strict=True) if verdict.score is not None]
    if not scored:
        error = next((verdict.error.message for verdict in verdicts if verdict.error), "It named no winner.")
        return {"error": error, "num_prompts": len(found)}
    scores = np.array([score for _, score in scored], dtype=np.float64)
    lengths = [len(item.pair.first) - len(item.pair.second) for item, _ in scored]
    rows = ArmRows(
        prompts=np.arange(len(scored)), preferences=scores, length_differences=np.array(lengths, dtype=np.float64)
    )
    rates = win_rates({"kto_all": rows})["kto_all"]
    groups: dict[str, list[float]] = defaultdict(list)
    for item, score in scored:
        groups[item.category].append(score)
    return {
        "raw": asdict(mean_estimate(scores, np.arange(len(scores)), share=True)),
        "controlled": None if rates.is_far else asdict(rates.controlled),
        "by_category": [
            {"category": name, **asdict(mean_estimate(np.array(group), np.arange(len(group)), share=True))}
            for name, group in sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:12]
        ]
        if len(groups) > 1
        else [],
        "num_prompts": len(scored),
        "num_failed": told.num_failed,
        "inconsistency": told.inconsistency.value,
        "first_shown": told.first_shown.value,
        "is_far": rates.is_far,
    }
