"""Evaluation jobs: asked for, watched, cancelled. What a job does is its plan; the worker claims it (``job_leases``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.core.queue import QUEUE_TASKS, QUEUE_TRAIN, enqueue
from app.evaluations import endpoints
from app.models import Checkpoint, Endpoint, EvalJob, Project, Run, SuiteVersion, User

TASK = "worker.tasks.evaluate.evaluate"
OPEN = ("queued", "running")
REFERENCE, POLICY = "reference", "policy"
REPORT = "report"
"""Kind of the rows that hold a tool's report (``safety_reports``): no work, so no page and no list of jobs has them."""
MAX_ARMS = 64


def create_job(
    db: Session,
    project: Project,
    kind: str,
    title: str,
    plan: Mapping[str, Any],
    *,
    user: User | None = None,
    run_id: int | None = None,
    checkpoint_id: int | None = None,
    comparison_id: int | None = None,
) -> EvalJob:
    """Write the row and ring for a worker once the caller has committed.

    ``plan``: {"base_model", "arms": [{"name", "checkpoint_id"|None, "system_prompt", "endpoint_id"?}], "suite_versions": [ids],
    "heldout": "test"|"dev"|"", "judge": endpoint id|None}. Raises InvalidError for arms or suites that are not there.
    """
    arms, versions = list(plan.get("arms", ())), list(plan.get("suite_versions", ()))
    names = [arm.get("name", "") for arm in arms]
    if not 0 < len(arms) <= MAX_ARMS or len(set(names)) < len(names) or not all(names):
        raise InvalidError(f"An evaluation needs 1 to {MAX_ARMS} arms, each by a name of its own.")
    _check_ours(db, project, arms, versions)
    job = EvalJob(
        project_id=project.id,
        kind=kind,
        title=title,
        run_id=run_id,
        checkpoint_id=checkpoint_id,
        comparison_id=comparison_id,
        plan={"heldout": "", "judge": None, **plan, "arms": arms, "suite_versions": versions},
        created_by=user.id if user else None,
    )
    db.add(job)
    db.flush()
    audit.record(
        db, "evaluation.start", project_id=project.id, user_id=user.id if user else None, subject=f"evaluation {job.id}"
    )
    ring(db, job)
    return job


def _check_ours(db: Session, project: Project, arms: Sequence[Mapping[str, Any]], versions: Sequence[int]) -> None:
    asked = {arm["checkpoint_id"] for arm in arms if arm.get("checkpoint_id") is not None}
    query = select(Checkpoint.id).join(Run, Run.id == Checkpoint.run_id).where(Run.project_id == project.id)
    there = set(db.scalars(query.where(Checkpoint.id.in_(asked), Checkpoint.removed_at.is_(None))))
    if asked - there:
        raise InvalidError("A checkpoint of this evaluation is not there any more.", remedy="Choose another one.")
    servers = {arm["endpoint_id"] for arm in arms if arm.get("endpoint_id")}
    models = select(Endpoint.id).where(Endpoint.project_id == project.id, Endpoint.kind == "model")
    if servers - set(db.scalars(models.where(Endpoint.id.in_(servers)))):
        raise InvalidError("An endpoint of this evaluation is no model of this project.", remedy="Choose another one.")
    ours = select(SuiteVersion.id).where(SuiteVersion.project_id == project.id, SuiteVersion.id.in_(versions))
    if set(versions) - set(db.scalars(ours)):
        raise InvalidError("A suite of this evaluation is not in this project.")


def needs_model(job: EvalJob) -> bool:
    """Whether an arm is drawn by this installation: then a worker with a device takes the job."""
    return any(not arm.get("endpoint_id") for arm in job.plan["arms"])


def ring(db: Session, job: EvalJob) -> None:
    enqueue(db, TASK, job.id, queue=QUEUE_TRAIN if needs_model(job) else QUEUE_TASKS)


def start_suites(
    db: Session,
    project: Project,
    *,
    checkpoint: Checkpoint,
    versions: Sequence[SuiteVersion],
    judge_id: int | None,
    user: User | None,
    endpoint_id: int | None = None,
) -> EvalJob:
    """A checkpoint and its reference on suites, and beside them the model of an endpoint where one is named.

    ``judge_id`` may be a guard's: it decides on harmful requests. Raises InvalidError where no suite was chosen, NotFoundError
    for an endpoint that is not there.
    """
    if not versions:
        raise InvalidError("Choose at least one suite.", fields={"suites": "choose at least one"})
    run = db.get_one(Run, checkpoint.run_id)
    names = ", ".join(version.header["name"] for version in versions)
    arms: list[dict[str, Any]] = [
        {"name": REFERENCE, "checkpoint_id": None, "system_prompt": ""},
        {"name": POLICY, "checkpoint_id": checkpoint.id, "system_prompt": ""},
    ]
    if endpoint_id is not None:
        arms.append(_endpoint_arm(endpoints.find_endpoint(db, project.id, endpoint_id)))
    plan = {
        "base_model": run.config["base_model"],
        "arms": arms,
        "suite_versions": [version.id for version in versions],
        "heldout": "",
        "judge": judge_id,
        "judge_kind": endpoints.find_endpoint(db, project.id, judge_id).kind if judge_id is not None else "",
    }
    title = f"{run.name}, step {checkpoint.step:,}: {names}"
    return create_job(db, project, "suites", title[:200], plan, user=user, run_id=run.id, checkpoint_id=checkpoint.id)


def _endpoint_arm(endpoint: Endpoint) -> dict[str, Any]:
    """Its name is the endpoint's as far as a file's name allows it."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", endpoint.name).strip("-").lower()[:60]
    name = f"{plain or 'endpoint'}-{endpoint.id}" if plain in {"", REFERENCE, POLICY} else plain
    return {"name": name, "checkpoint_id": None, "endpoint_id": endpoint.id, "system_prompt": ""}


def find_job(db: Session, project: Project, job_id: int) -> EvalJob:
    job = db.scalar(
        select(EvalJob).where(EvalJob.project_id == project.id, EvalJob.id == job_id, EvalJob.kind != REPORT)
    )
    if job is None:
        raise NotFoundError("There is no such evaluation in this project.")
    return job


def list_jobs(db: Session, project: Project, *, run_id: int | None = None, limit: int = 20) -> Sequence[EvalJob]:
    """Newest first."""
    query = select(EvalJob).where(EvalJob.project_id == project.id, EvalJob.kind != REPORT)
    if run_id is not None:
        query = query.where(EvalJob.run_id == run_id)
    return db.scalars(query.order_by(EvalJob.id.desc()).limit(limit)).all()


def cancel(db: Session, project: Project, job_id: int, *, user: User | None) -> EvalJob:
    """The worker sees it within seconds and stops; what was drawn stays on the disk. Raises ConflictError when it is over."""
    job = find_job(db, project, job_id)
    done = db.scalar(
        update(EvalJob)
        .where(EvalJob.id == job.id, EvalJob.status.in_(OPEN))
        .values(status="cancelled", finished_at=utcnow(), lease_until=None, message="Cancelled.")
        .returning(EvalJob.id)
    )
    if done is None:
        raise ConflictError("This evaluation is over already.")
    db.refresh(job)
    subject = f"evaluation {job.id}"
    audit.record(db, "evaluation.cancel", project_id=project.id, user_id=user.id if user else None, subject=subject)
    return job


def again(db: Session, project: Project, job_id: int, *, user: User | None) -> EvalJob:
    """Queue a failed or cancelled job once more: what it drew is not drawn again. Raises ConflictError."""
    job = find_job(db, project, job_id)
    done = db.scalar(
        update(EvalJob)
        .where(EvalJob.id == job.id, EvalJob.status.in_(("failed", "cancelled")))
        .values(status="queued", finished_at=None, lease_until=None, message="", attempt=0)
        .returning(EvalJob.id)
    )
    if done is None:
        raise ConflictError("Only an evaluation that failed or was cancelled can go on.")
    db.refresh(job)
    audit.record(
        db,
        "evaluation.again",
        project_id=project.id,
        user_id=user.id if user else None,
        subject=f"evaluation {job.id}",
    )
    ring(db, job)
    return job


def seconds_left(job: EvalJob) -> float | None:
    """From the pace so far; None until there is one."""
    if job.status != "running" or job.started_at is None or not 0 < job.done < job.total:
        return None
    elapsed: timedelta = utcnow() - job.started_at
    return elapsed.total_seconds() * (job.total - job.done) / job.done
