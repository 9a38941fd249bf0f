"""A comparison on its way: when its runs are over, what is best on DEV goes to TEST; when TEST is measured, it is decided."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload, selectinload

from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.errors import StudioError
from app.evaluations import jobs
from app.evaluations.comparisons import TRAINED, candidate_name
from app.evaluations.queries import auc_of, best_of
from app.models import (
    FINAL,
    Comparison,
    ComparisonArm,
    EvalJob,
    Evaluation,
    Project,
    RunStatus,
)
from worker.alignment.evaluation.decision import decide
from worker.alignment.evaluation.decision_words import ARM_NAMES
from worker.comparison_evidence import Evidence, read_evidence
from worker.comparison_judge import judge
from worker.job_spec import job_folder

_WITH_ARMS = (selectinload(Comparison.arms).joinedload(ComparisonArm.run), joinedload(Comparison.run))


def advance_comparisons() -> None:
    """Bring every comparison whose runs or evaluation are over one step on; called every few seconds, by any worker."""
    with session_scope() as db:
        open_ones = (
            select(Comparison.id).where(Comparison.status.in_(("training", "evaluating"))).order_by(Comparison.id)
        )
        ids = list(db.scalars(open_ones))
    for comparison_id in ids:
        with session_scope() as db:
            comparison = _locked(db, comparison_id)
            if comparison is not None and comparison.status == "training":
                choose_and_evaluate(db, comparison)
            elif comparison is not None and comparison.status == "evaluating":
                _follow_job(db, comparison)


def _locked(db: Session, comparison_id: int) -> Comparison | None:
    """None where another worker has it."""
    statement = (
        select(Comparison)
        .where(Comparison.id == comparison_id)
        .options(*_WITH_ARMS)
        .with_for_update(skip_locked=True, of=Comparison)
    )
    return db.scalar(statement)


def choose_and_evaluate(db: Session, comparison: Comparison) -> EvalJob | None:
    """Once every run is over: each arm's checkpoint and knobs by the held-out AUC on DEV, and a job on TEST. TEST is not
    looked at here. None while a run is not over, and where DPO or KTO-all has nothing to show: then the comparison fails.
    """
    if any(arm.run is not None and arm.run.status not in FINAL for arm in comparison.arms):
        return None
    choose(db, comparison)
    lost = [arm for arm in comparison.arms if arm.arm in TRAINED and arm.checkpoint_id is None]
    chosen = {arm.arm for arm in comparison.arms if arm.is_chosen}
    if missing := [arm for arm in ("dpo", "kto_all") if arm not in chosen]:
        _fail(
            comparison, f"{' and '.join(ARM_NAMES[arm] for arm in missing)} cannot be judged. {_why_lost(lost)}".strip()
        )
        return None
    comparison.message = _why_lost(lost)
    try:
        job = _create_job(db, comparison)
    except StudioError as error:
        _fail(comparison, f"{error.message} {error.remedy}".strip())
        return None
    comparison.status = "evaluating"
    db.flush()
    return job


def choose(db: Session, comparison: Comparison) -> None:
    """Of every run the checkpoint with the best AUC on DEV, of every arm the knobs with the best mean of these over seeds."""
    by_run: dict[int, list[Evaluation]] = defaultdict(list)
    ids = [arm.run_id for arm in comparison.arms if arm.run_id is not None]
    query = select(Evaluation).options(joinedload(Evaluation.checkpoint))
    for item in db.scalars(
        query.where(Evaluation.run_id.in_(ids), Evaluation.kind == "screen").order_by(Evaluation.step)
    ):
        if item.checkpoint.removed_at is None:
            by_run[item.run_id].append(item)
    means: dict[tuple[str, int], list[float]] = defaultdict(list)
    for arm in comparison.arms:
        if arm.run is None or arm.run.status != RunStatus.SUCCEEDED:
            continue
        best = best_of(by_run[arm.run.id])
        if best is not None:
            arm.checkpoint_id = best.checkpoint_id
            arm.summary = {"step": best.step, "dev": auc_of(best)}
            means[arm.arm, arm.point].append(auc_of(best)["value"])
    best_points: dict[str, int] = {}
    for name in TRAINED:
        points = [(len(v), sum(v) / len(v), -point) for (arm_name, point), v in means.items() if arm_name == name]
        if points:
            most = max(seeds for seeds, _, _ in points)  # a point whose seeds failed cannot be judged as well
            best_points[name] = -max((mean, point) for seeds, mean, point in points if seeds == most)[1]
    for arm in comparison.arms:
        untrained = arm.arm not in TRAINED
        arm.is_chosen = untrained or (arm.checkpoint_id is not None and best_points.get(arm.arm) == arm.point)
    db.flush()


def _create_job(db: Session, comparison: Comparison) -> EvalJob:
    plan = comparison.plan
    arms: list[dict[str, Any]] = [
        {
            "name": candidate_name(arm),
            "checkpoint_id": arm.checkpoint_id,
            "system_prompt": plan["system_prompt"] if arm.arm == "prompt" else "",
        }
        for arm in comparison.arms
        if arm.is_chosen
    ]
    versions = [*([plan["primary"]] if plan["primary"] else []), *plan["guards"]]
    return jobs.create_job(
        db,
        db.get_one(Project, comparison.project_id),
        "comparison",
        f"{comparison.run.name}: KTO against DPO on TEST",
        {
            "base_model": comparison.run.config["base_model"],
            "arms": arms,
            "suite_versions": versions,
            "heldout": "test",
            "judge": plan["judge"],
        },
        run_id=comparison.run_id,
        comparison_id=comparison.id,
    )


def _follow_job(db: Session, comparison: Comparison) -> None:
    """The job decides by ``finish``; here it is only seen to have failed, or to have ended without having been read."""
    job = _job_of(db, comparison)
    if job is None:
        _fail(comparison, "Its evaluation was removed.")
    elif job.status in {"failed", "cancelled"}:
        _fail(comparison, f"The evaluation on TEST ended without a result. {job.message}".strip())
    elif job.status == "succeeded":
        _decide(db, comparison, job, {})


def _job_of(db: Session, comparison: Comparison) -> EvalJob | None:
    return db.scalar(
        select(EvalJob)
        .where(EvalJob.comparison_id == comparison.id, EvalJob.kind == "comparison")
        .order_by(EvalJob.id.desc())
        .limit(1)
    )


def finish(job_id: int) -> None:
    """Ask the judge where one was chosen, then decide the comparison of a job whose results are written.

    A second call changes nothing.
    """
    with session_scope() as db:
        comparison = db.get(Comparison, db.get_one(EvalJob, job_id).comparison_id)
        if comparison is None or comparison.status != "evaluating":
            return
    judged = judge(job_id)  # may take minutes: no row is locked meanwhile
    with session_scope() as db:
        job = db.get_one(EvalJob, job_id)
        locked = _locked(db, job.comparison_id or 0)
        if locked is not None and locked.status == "evaluating":
            _decide(db, locked, job, judged)


def _decide(db: Session, comparison: Comparison, job: EvalJob, judged: dict[str, Any]) -> None:
    evidence: Evidence = read_evidence(db, comparison, job, job_folder(job), judged)
    decision = decide(evidence.primary, evidence.guards)
    comparison.decision = {**decision.to_json(), "evidence": evidence.to_json()}
    for arm in comparison.arms:
        if arm.is_chosen:
            arm.summary = {**arm.summary, **evidence.by_arm.get(candidate_name(arm), {})}
    comparison.status = "succeeded"
    comparison.finished_at = utcnow()
    db.flush()


def _fail(comparison: Comparison, message: str) -> None:
    comparison.status, comparison.message, comparison.finished_at = "failed", message, utcnow()


def _why_lost(arms: list[ComparisonArm]) -> str:
    """One sentence for each run that gave no checkpoint to judge."""
    words = []
    for arm in arms:
        if arm.run is None:
            words.append(f"A run of {ARM_NAMES[arm.arm]} was removed.")
        elif arm.run.status == RunStatus.SUCCEEDED:
            words.append(f"{arm.run.name} has no evaluated checkpoint with both labels on the dev split.")
        else:
            reason = (arm.run.failure_reason or "").replace("_", " ")
            words.append(f"{arm.run.name} is {arm.run.status}{f' ({reason})' if reason else ''}.")
    return " ".join(dict.fromkeys(words))
