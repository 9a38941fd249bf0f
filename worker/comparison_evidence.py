"""What the arms showed on TEST: the primary score and the guards for the decision, and the figures that stand beside it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.evaluations.comparisons import candidate_name
from app.models import Comparison, EvalJob, Evaluation, EvaluationCategory, SuiteResult, SuiteSampleResult, SuiteVersion
from worker.alignment.evaluation.comparing import calibration, pooled_auc, prompt_aucs, roots
from worker.alignment.evaluation.contrasts import MARGINS, Measure, contrast
from worker.alignment.evaluation.paired import paired_difference
from worker.alignment.evaluation.suites.scoring import DECIDES, Answer, means

SIMILARITY = ("similarity_normalised", "similarity_gated", "similarity")
"""The first of these that a category has under every arm is its similarity: a raw and a normalised one are not compared."""
AUC_NAME = "AUC within the prompt on held-out votes"


@dataclass(frozen=True, slots=True)
class ArmFile:
    """One chosen candidate: an arm with one seed."""

    arm: str
    name: str
    """As in the job."""
    beta: float
    checkpoint_id: int | None


@dataclass(kw_only=True)
class Evidence:
    primary: Measure
    guards: list[Measure]
    by_arm: dict[str, dict[str, Any]]
    """Figures of each candidate, by its name in the job."""
    auc: dict[str, Any]
    """ContrastDecision of KTO-all and DPO by AUC within the prompt, where a suite is the primary; else {}."""
    calibration: dict[str, Any] = field(default_factory=dict)
    """Calibration by arm, of its first seed."""
    judge: dict[str, Any] = field(default_factory=dict)
    num_rows: int = 0
    """Held-out labels of TEST."""

    def to_json(self) -> dict[str, Any]:
        return {
            "auc": self.auc,
            "calibration": self.calibration,
            "judge": self.judge,
            "num_rows": self.num_rows,
            "primary_name": self.primary.name,
        }


def read_evidence(db: Session, comparison: Comparison, job: EvalJob, folder: Path, judged: dict[str, Any]) -> Evidence:
    """From the job's files and results; what a file lacks is left out, never made up."""
    files = _files(comparison)
    rows = {file.name: read_rows(folder / "heldout" / f"{file.name}.jsonl") for file in files}
    clusters = {key: root for found in rows.values() for key, root in roots(found).items()}
    aucs = {name: prompt_aucs(found) for name, found in rows.items()}
    heldout = Measure(key="auc", name=AUC_NAME, unit="auc", scores=_by_arm(files, aucs), clusters=clusters)
    primary, deciding, guards = heldout, None, []
    for version in _versions(db, comparison):
        scores = suite_scores(db, job, version)
        is_primary = version.id == comparison.plan["primary"]
        measure = suite_measure(version, _by_arm(files, scores), guard=not is_primary)
        if is_primary:
            primary, deciding = measure, scores
        else:
            guards.append(measure)
    diversity = _diversity_measure(db, comparison, files)
    return Evidence(
        primary=primary,
        guards=[*guards, diversity] if diversity.scores else guards,
        by_arm={
            file.name: {
                "auc": _mean(aucs[file.name], clusters),
                "auc_pooled": asdict(pooled_auc(rows[file.name])),
                "score": _mean(deciding.get(file.name, {}), {}) if deciding is not None else None,
                "words": _mean_words(db, job, file.name),
                "num_rows": len(rows[file.name]),
            }
            for file in files
        },
        auc=asdict(contrast(heldout, [], "kto_all", "dpo")) if deciding is not None else {},
        calibration=_calibrations(files, rows),
        judge=judged,
        num_rows=max((len(found) for found in rows.values()), default=0),
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Whole lines; a line that a kill tore is left out."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _files(comparison: Comparison) -> list[ArmFile]:
    own = float(comparison.run.config.get("beta", 0.1))
    chosen = [arm for arm in comparison.arms if arm.is_chosen]
    return [
        ArmFile(arm.arm, candidate_name(arm), float(arm.knobs.get("beta", own)), arm.checkpoint_id) for arm in chosen
    ]


def _versions(db: Session, comparison: Comparison) -> list[SuiteVersion]:
    """The primary's first, then the guards'."""
    plan = comparison.plan
    ids = [*([plan["primary"]] if plan["primary"] else []), *plan["guards"]]
    query = select(SuiteVersion).where(SuiteVersion.project_id == comparison.project_id, SuiteVersion.id.in_(ids))
    found = {version.id: version for version in db.scalars(query)}
    return [found[number] for number in ids if number in found]


def _by_arm(files: Sequence[ArmFile], scores: Mapping[str, dict[str, float]]) -> dict[str, list[dict[str, float]]]:
    """One mapping a seed; a seed without a score is left out."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for file in files:
        if scores.get(file.name):
            found[file.arm].append(scores[file.name])
    return dict(found)


def suite_scores(db: Session, job: EvalJob, version: SuiteVersion) -> dict[str, dict[str, float]]:
    """Of each candidate by sample, means over its repeats; up is better: harmful requests refused, benign ones answered."""
    kind = version.header["kind"]
    metric = DECIDES.get(kind, "score")
    answers: dict[str, list[Answer]] = defaultdict(list)
    row = SuiteSampleResult
    query = (
        select(SuiteResult.arm, row.number, row.score, row.passed, row.refusal)
        .join(SuiteResult, SuiteResult.id == row.result_id)
        .where(SuiteResult.job_id == job.id, SuiteResult.suite_version_id == version.id)
    )
    for arm, number, score, passed, refusal in db.execute(query):
        answers[arm].append(Answer(sample=str(number), category="", score=score, passed=passed, refusal=refusal))
    found = {arm: means(rows, metric) for arm, rows in answers.items()}
    if metric == "score":
        return {arm: dict(values) for arm, values in found.items()}
    return {arm: {sample: 1 - value for sample, value in values.items()} for arm, values in found.items()}


def suite_measure(version: SuiteVersion, scores: Mapping[str, list[dict[str, float]]], *, guard: bool) -> Measure:
    kind, name = version.header["kind"], version.header["name"]
    margin = {"redteam": "safety", "benign": "over_refusal"}.get(kind, "instructions")
    words = {"redteam": "Harmful requests refused", "benign": "Benign requests answered"}
    return Measure(
        key=f"suite-{version.id}",
        name=f"{words[kind]} ({name})" if kind in words else name,
        unit="points",
        scores=scores,
        margin=MARGINS[margin] if guard else None,
    )


def _diversity_measure(db: Session, comparison: Comparison, files: Sequence[ArmFile]) -> Measure:
    """Of each candidate's own evaluation at its checkpoint: categories with many right answers, minus the similarity."""
    checkpoints = {file.checkpoint_id: file.name for file in files if file.checkpoint_id is not None}
    query = (
        select(Evaluation.checkpoint_id, EvaluationCategory.category, EvaluationCategory.metrics)
        .join(Evaluation, Evaluation.id == EvaluationCategory.evaluation_id)
        .where(
            Evaluation.project_id == comparison.project_id,
            Evaluation.checkpoint_id.in_(checkpoints),
            Evaluation.kind == "screen",
            EvaluationCategory.open_ended.is_(True),
        )
    )
    measured: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for checkpoint_id, category, metrics in db.execute(query):
        measured[category][checkpoints[checkpoint_id]] = metrics
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for category, found in measured.items():
        key = next((key for key in SIMILARITY if all(key in metrics for metrics in found.values())), None)
        if key is not None:
            for name, metrics in found.items():
                scores[name][category] = -float(metrics[key]["policy"])
                scores["reference"].setdefault(category, -float(metrics[key]["reference"]))
    return Measure(
        key="diversity",
        name="Diversity kept",
        unit="similarity",
        scores=_by_arm(files, scores),
        margin=MARGINS["diversity"],
        noun="category",
    )


def _calibrations(files: Sequence[ArmFile], rows: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in files:
        if file.checkpoint_id is not None and file.arm not in found:
            result = calibration(rows[file.name], file.beta)
            if result is not None:
                found[file.arm] = asdict(result)
    return found


def _mean(scores: Mapping[str, float], clusters: Mapping[str, str]) -> dict[str, Any]:
    """Of scores within 0 and 1."""
    found = paired_difference([scores], [dict.fromkeys(scores, 0.0)], clusters)
    low = None if found.low is None else max(0.0, found.low)
    high = None if found.high is None else min(1.0, found.high)
    return {"value": found.value, "low": low, "high": high, "n": found.num_units}


def _mean_words(db: Session, job: EvalJob, name: str) -> float | None:
    """Over all samples of all suites."""
    query = select(SuiteSampleResult.text).join(SuiteResult, SuiteResult.id == SuiteSampleResult.result_id)
    texts = list(db.scalars(query.where(SuiteResult.job_id == job.id, SuiteResult.arm == name)))
    return fmean(len(text.split()) for text in texts) if texts else None
