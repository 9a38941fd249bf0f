"""Where a blind A/B takes its answers from: the candidates of a comparison on TEST, or what was sampled at checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.core.errors import InvalidError
from app.core.ids import content_hash
from app.evaluations.ab import Answers
from app.evaluations.comparisons import candidate_name
from app.models import (
    Comparison,
    ComparisonArm,
    EvalJob,
    Evaluation,
    EvaluationSample,
    Project,
    Run,
    SuiteResult,
    SuiteSample,
    SuiteSampleResult,
)
from worker.alignment.evaluation.decision_words import ARM_NAMES

MAX_SOURCES = 60


def choices(db: Session, project: Project) -> list[tuple[str, str]]:
    """(value, words), newest first: candidates of comparisons whose suites were drawn, then evaluated checkpoints."""
    found: list[tuple[str, str]] = []
    query = (
        select(SuiteResult.arm, EvalJob.id, Run.name)
        .join(EvalJob, EvalJob.id == SuiteResult.job_id)
        .join(Run, Run.id == EvalJob.run_id)
        .where(EvalJob.project_id == project.id, EvalJob.kind == "comparison", EvalJob.status == "succeeded")
        .group_by(SuiteResult.arm, EvalJob.id, Run.name)
        .order_by(EvalJob.id.desc(), SuiteResult.arm)
    )
    for arm, job_id, run_name in db.execute(query.limit(MAX_SOURCES)):
        found.append((f"job:{job_id}:{arm}", f"{_arm_words(arm)}, comparison of {run_name}"))
    evaluations = (
        select(Evaluation.id, Evaluation.step, Run.name)
        .join(Run, Run.id == Evaluation.run_id)
        .where(Evaluation.project_id == project.id, Evaluation.kind == "screen", Evaluation.diversity.is_not(None))
        .order_by(Evaluation.id.desc())
    )
    for evaluation_id, step, run_name in db.execute(evaluations.limit(MAX_SOURCES)):
        found.append((f"screen:{evaluation_id}:policy", f"{run_name}, step {step:,}"))
    for evaluation_id, _, run_name in db.execute(evaluations.limit(1)):
        found.append((f"screen:{evaluation_id}:reference", f"Reference of {run_name}"))
    return found


def of_comparison(db: Session, project: Project, comparison_id: int) -> tuple[str, str]:
    """Sources of KTO-all and DPO, as chosen: from the suites on TEST, else from their checkpoints. "" where there is none."""
    query = select(ComparisonArm).join(Comparison, Comparison.id == ComparisonArm.comparison_id)
    arms = db.scalars(
        query.where(Comparison.project_id == project.id, Comparison.id == comparison_id, ComparisonArm.is_chosen)
    ).all()
    found = {arm.arm: arm for arm in reversed(arms)}
    job_id = db.scalar(
        select(SuiteResult.job_id)
        .join(EvalJob, EvalJob.id == SuiteResult.job_id)
        .where(EvalJob.comparison_id == comparison_id, EvalJob.project_id == project.id)
        .order_by(SuiteResult.job_id.desc())
        .limit(1)
    )
    return _source_of(db, found.get("kto_all"), job_id), _source_of(db, found.get("dpo"), job_id)


def _source_of(db: Session, arm: ComparisonArm | None, job_id: int | None) -> str:
    if arm is None:
        return ""
    if job_id is not None:
        return f"job:{job_id}:{candidate_name(arm)}"
    query = select(Evaluation.id).where(Evaluation.checkpoint_id == arm.checkpoint_id, Evaluation.kind == "screen")
    evaluation_id = db.scalar(query)
    return f"screen:{evaluation_id}:policy" if evaluation_id is not None else ""


def read(db: Session, project: Project, value: str, field: str) -> Answers:
    """The answers behind a choice. Raises InvalidError, for ``field``, where it is none of this project."""
    kind, _, rest = value.partition(":")
    number, _, arm = rest.partition(":")
    if number.isdecimal() and len(number) <= 9:
        if kind == "job":
            found = _of_job(db, project, int(number), arm)
        else:
            found = _of_screen(db, project, int(number), arm) if kind == "screen" else None
        if found is not None and found.texts:
            return found
    raise InvalidError("There is no such arm.", fields={field: "choose an arm that was sampled"})


def _of_job(db: Session, project: Project, job_id: int, arm: str) -> Answers | None:
    job = db.scalar(select(EvalJob).where(EvalJob.project_id == project.id, EvalJob.id == job_id))
    if job is None:
        return None
    rows = db.execute(
        select(SuiteSample.data, SuiteSample.category, SuiteSampleResult.text)
        .select_from(SuiteSampleResult)
        .join(SuiteResult, SuiteResult.id == SuiteSampleResult.result_id)
        .join(
            SuiteSample,
            (SuiteSample.version_id == SuiteResult.suite_version_id) & (SuiteSample.number == SuiteSampleResult.number),
        )
        .where(
            SuiteResult.job_id == job.id,
            SuiteResult.arm == arm,
            SuiteSampleResult.repeat == 0,
            SuiteSampleResult.error.is_(None),
        )
    ).all()
    return _answers(_arm_words(arm), [(_messages(data["input"]), category, text) for data, category, text in rows])


def _of_screen(db: Session, project: Project, evaluation_id: int, arm: str) -> Answers | None:
    evaluation = db.scalar(
        select(Evaluation)
        .options(joinedload(Evaluation.checkpoint))
        .where(Evaluation.project_id == project.id, Evaluation.id == evaluation_id)
    )
    if evaluation is None or arm not in {"policy", "reference"}:
        return None
    run = db.get_one(Run, evaluation.run_id)
    rows = db.execute(
        select(EvaluationSample.prompt, EvaluationSample.category, EvaluationSample.text).where(
            EvaluationSample.evaluation_id == evaluation.id, EvaluationSample.arm == arm, EvaluationSample.number == 0
        )
    ).all()
    name = f"{run.name}, step {evaluation.step:,}" if arm == "policy" else f"Reference of {run.name}"
    return _answers(name, [(prompt, category, text) for prompt, category, text in rows])


def _answers(name: str, rows: Sequence[tuple[list[Any], str, str]]) -> Answers:
    texts: dict[str, str] = {}
    prompts: dict[str, tuple[list[Any], str]] = {}
    for prompt, category, text in rows:
        key = content_hash(prompt)
        texts.setdefault(key, text)
        prompts.setdefault(key, (prompt, category))
    return Answers(name, texts, prompts)


def _messages(given: Any) -> list[Any]:
    return [{"role": "user", "content": given}] if isinstance(given, str) else list(given)


def _arm_words(name: str) -> str:
    """``kto_all-3`` as "KTO-all, seed 3"."""
    arm, _, seed = name.partition("-")
    words = ARM_NAMES.get(arm, name)
    return f"{words}, seed {seed}" if seed else words
