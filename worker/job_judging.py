"""Puts a judge's answers into the checks that wait for one. What it said once is kept, so that it is not asked twice."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.db import session_scope
from app.core.errors import StudioError
from app.evaluations import endpoints
from app.models import EvalJob, JudgeVerdict
from worker.alignment.evaluation.judging import rubric
from worker.alignment.evaluation.judging.client import Answer, Report
from worker.alignment.evaluation.judging.wire import EndpointError
from worker.alignment.evaluation.suites.checks import CheckResult, checks_of, combine, judged
from worker.alignment.evaluation.suites.declared import Check
from worker.alignment.evaluation.suites.format import Suite
from worker.job_results import Checked, Judge

_LOOK_UP = 1_000


def make_judge(job: EvalJob) -> Judge:
    """Of the plan's endpoint. A judge that cannot be asked costs its checks their verdict, never the others theirs."""
    endpoint_id, project_id = int(job.plan["judge"]), job.project_id

    def judge(suite: Suite, checked: Sequence[Checked]) -> list[Checked]:
        waiting = [
            (place, number)
            for place, item in enumerate(checked)
            for number, check in enumerate(item.score.checks)
            if check.pending
        ]
        if not waiting:
            return list(checked)
        items = [_item(suite, checked[place], number) for place, number in waiting]
        results: dict[tuple[int, int], CheckResult] = {}
        for (place, number), rating in zip(waiting, _ratings(project_id, endpoint_id, items), strict=True):
            check = checks_of(checked[place].sample, suite.header)[number]
            results[place, number] = _verdict(check, rating)
        return [_with(place, item, results) for place, item in enumerate(checked)]

    return judge


def _item(suite: Suite, item: Checked, number: int) -> rubric.Item:
    check = checks_of(item.sample, suite.header)[number]
    scale = check.options.get("scale", (0.0, 1.0))
    return rubric.Item(
        id=f"{item.number}-{item.repeat}-{number}",
        prompt=item.sample.input,
        answer=item.text,
        rubric=check.options["rubric"],
        scale=(float(scale[0]), float(scale[1])),
        reference=item.sample.target[0] if item.sample.target else "",
    )


def _ratings(project_id: int, endpoint_id: int, items: Sequence[rubric.Item]) -> list[rubric.Rating]:
    try:
        with session_scope() as db:
            endpoint = endpoints.find_endpoint(db, project_id, endpoint_id)
            client = endpoints.client_of(endpoint)
        with client:
            keys = [rubric.request_of(item).key(client.settings.model) for item in items]
            cache = known_answers(project_id, endpoint_id, keys)
            return rubric.rate(client, items, cache=cache, report=keeper(project_id, endpoint_id))
    except StudioError as error:
        failed = EndpointError("refused", f"{error.message} {error.remedy}".strip())
        return [rubric.Rating(id=item.id, rating=None, error=failed) for item in items]


def known_answers(project_id: int, endpoint_id: int, keys: Sequence[str]) -> dict[str, Answer]:
    """What the endpoint was asked before."""
    found: dict[str, Answer] = {}
    with session_scope() as db:
        for start in range(0, len(keys), _LOOK_UP):
            query = select(JudgeVerdict.request_hash, JudgeVerdict.answer).where(
                JudgeVerdict.project_id == project_id,
                JudgeVerdict.endpoint_id == endpoint_id,
                JudgeVerdict.request_hash.in_(keys[start : start + _LOOK_UP]),
            )
            found.update((key, answer) for key, answer in db.execute(query))
    return found


def keeper(project_id: int, endpoint_id: int) -> Report:
    """Stores each answer as it arrives: a job that is killed has not paid in vain."""

    def keep(key: str, answer: Answer | EndpointError) -> None:
        if isinstance(answer, EndpointError):
            return
        with session_scope() as db:
            values = {"project_id": project_id, "endpoint_id": endpoint_id, "request_hash": key, "answer": answer}
            db.execute(upsert(JudgeVerdict).values(**values).on_conflict_do_nothing())

    return keep


def _verdict(check: Check, rating: rubric.Rating) -> CheckResult:
    error = rating.error.message if rating.error else ""
    return judged(check, rating.rating, detail=rating.reason[:300], error=error)


def _with(place: int, item: Checked, results: dict[tuple[int, int], CheckResult]) -> Checked:
    checks = [results.get((place, number), check) for number, check in enumerate(item.score.checks)]
    return item.with_checks(combine(checks)) if any(key[0] == place for key in results) else item
