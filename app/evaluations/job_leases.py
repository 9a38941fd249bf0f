"""Who works on an evaluation job: claimed in one statement, kept by a lease. The attempt is the token: a worker that
overslept finds another one in the row and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.evaluations.jobs import ring
from app.models import EvalJob
from app.settings import get_settings

MAX_TRIES = 3


def _lease_end() -> datetime:
    return utcnow() + timedelta(seconds=get_settings().lease_seconds)


def claim(db: Session, job_id: int) -> EvalJob | None:
    """The job, now ours; None when it is over, or somebody else's."""
    now = utcnow()
    lapsed = and_(EvalJob.status == "running", EvalJob.lease_until < now)
    claimed = db.scalar(
        update(EvalJob)
        .where(EvalJob.id == job_id, or_(EvalJob.status == "queued", lapsed))
        .values(
            status="running",
            attempt=EvalJob.attempt + 1,
            lease_until=_lease_end(),
            started_at=func.coalesce(EvalJob.started_at, now),
            message="",
            finished_at=None,
        )
        .returning(EvalJob.id)
    )
    if claimed is None:
        return None
    return db.scalars(select(EvalJob).where(EvalJob.id == job_id).execution_options(populate_existing=True)).one()


def beat(db: Session, job_id: int, attempt: int, *, phase: str, done: int, total: int) -> bool:
    """Keep the lease and say how far it is; False when it was lost or cancelled."""
    return _write(db, job_id, attempt, {"lease_until": _lease_end(), "phase": phase, "done": done, "total": total})


def finish(
    db: Session, job_id: int, attempt: int, *, status: str, message: str = "", result: Mapping[str, Any] | None = None
) -> bool:
    """False when the lease was lost: then another worker's result counts."""
    values: dict[str, Any] = {"status": status, "message": message, "finished_at": utcnow(), "lease_until": None}
    if result is not None:
        values["result"] = dict(result)
    return _write(db, job_id, attempt, values)


def release(db: Session, job_id: int, attempt: int) -> None:
    """Back into the queue: this worker is being stopped. It does not count as a try."""
    values = {"status": "queued", "attempt": EvalJob.attempt - 1, "lease_until": None}
    if _write(db, job_id, attempt, values):
        ring(db, db.get_one(EvalJob, job_id))


def _write(db: Session, job_id: int, attempt: int, values: Mapping[str, Any]) -> bool:
    mine = (EvalJob.id == job_id, EvalJob.status == "running", EvalJob.attempt == attempt)
    return db.scalar(update(EvalJob).where(*mine).values(**values).returning(EvalJob.id)) is not None


def requeue_stale_jobs(db: Session) -> list[int]:
    """Ring again for jobs that nobody works on; returns their ids. One whose worker was lost MAX_TRIES times has failed.

    A queued job is rung for once per lease: its ``lease_until`` says until when the last message counts.
    """
    now = utcnow()
    waited = now - timedelta(seconds=get_settings().lease_seconds)
    unheard = and_(
        EvalJob.status == "queued",
        or_(EvalJob.lease_until < now, and_(EvalJob.lease_until.is_(None), EvalJob.created_at < waited)),
    )
    lapsed = and_(EvalJob.status == "running", EvalJob.lease_until < now)
    rung = []
    for job in db.scalars(select(EvalJob).where(or_(unheard, lapsed)).with_for_update(skip_locked=True)).all():
        if job.status == "running" and job.attempt >= MAX_TRIES:
            job.status, job.finished_at, job.lease_until = "failed", now, None
            job.message = (
                f"The worker was lost {MAX_TRIES} times during this; it may lack memory. What was drawn is kept."
            )
            continue
        job.status, job.lease_until = "queued", _lease_end()
        ring(db, job)
        rung.append(job.id)
    db.flush()
    return rung
