"""The states of a run. Every move is one ``UPDATE … WHERE status IN (…) RETURNING`` with its audit row and state event.

    queued -> starting -> running -> succeeded | failed
    queued -> cancelled;  starting | running -> stopping -> cancelled (with a checkpoint)
    starting | running -> interrupted -> queued (bounded), with the next attempt going on from the last checkpoint
    starting | running -> paused (a critical alarm) -> queued by a lead's decision, or cancelled; see ``pausing``

A worker's moves carry its attempt: those of a worker that lost its lease find no row. Leases run on the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.clock import utcnow
from app.core.db import after_commit
from app.core.errors import ConflictError
from app.core.queue import QUEUE_TRAIN, enqueue
from app.core.redis import publish
from app.models import ACTIVE, FINAL, Run, RunEvent, RunStatus
from app.settings import get_settings
from app.webhooks.events import emit

ALIGN_TASK = "worker.tasks.align.align"
LEASE_LOST, WORKER_STOPPED = "lease_lost", "worker_stopped"
OVER: dict[str, Any] = {"lease_until": None, "finished_at": func.clock_timestamp()}


def channel(run_id: int) -> str:
    """The doorbell of a run: rings when it has new events."""
    return f"run:{run_id}"


def ring(db: Session, run_id: int) -> None:
    after_commit(db, lambda: publish(channel(run_id)))


def move(
    db: Session,
    run_id: int,
    to: RunStatus,
    *,
    allowed: Sequence[RunStatus],
    attempt: int | None = None,
    user_id: int | None = None,
    reason: str = "",
    message: str = "",
    conditions: Sequence[Any] = (),
    values: dict[str, Any] | None = None,
) -> Run | None:
    """Take the run from one of ``allowed`` to ``to``; None where it is in another state or at another attempt."""
    where = [Run.id == run_id, Run.status.in_([status.value for status in allowed]), *conditions]
    if attempt is not None:
        where.append(Run.attempt == attempt)
    statement = update(Run).where(*where).values(status=to.value, **(values or {})).returning(Run)
    run = db.scalars(statement, execution_options={"populate_existing": True}).one_or_none()
    if run is None:
        return None
    _state_event(db, run, to, reason=reason, message=message)
    details = {key: value for key, value in {"reason": reason, "message": message}.items() if value}
    audit.record(
        db,
        f"run.{to.value}",
        project_id=run.project_id,
        user_id=user_id,
        subject=run.name,
        attempt=run.attempt,
        **details,
    )
    if to in FINAL:
        emit(db, run.project_id, "run.finished", lambda: [_outcome(run)])
    ring(db, run_id)
    return run


def _outcome(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "failure_reason": run.failure_reason,
        "objective": run.objective,
        "step": run.step,
        "total_steps": run.total_steps,
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
    }


def _state_event(db: Session, run: Run, to: RunStatus, *, reason: str, message: str) -> None:
    """The row of the run is locked by the caller's update, so the numbers cannot collide."""
    lowest = select(func.coalesce(func.min(RunEvent.seq), 0)).where(
        RunEvent.run_id == run.id, RunEvent.attempt == run.attempt, RunEvent.seq < 0
    )
    data = {"status": to.value, "reason": reason, "message": message, "worker": run.worker or ""}
    db.execute(
        insert(RunEvent).values(
            run_id=run.id,
            attempt=run.attempt,
            seq=lowest.scalar_subquery() - 1,
            kind="state",
            step=run.step,
            data=data,
            at=utcnow(),
        )
    )


def lease_end() -> Any:
    return func.clock_timestamp() + timedelta(seconds=get_settings().lease_seconds)


def claim(db: Session, run_id: int, worker: str) -> Run | None:
    """Take a queued run for this worker: the next attempt begins. None where another has it or it is over."""
    return move(
        db,
        run_id,
        RunStatus.STARTING,
        allowed=[RunStatus.QUEUED],
        values={
            "attempt": Run.attempt + 1,
            "worker": worker,
            "lease_until": lease_end(),
            "started_at": func.coalesce(Run.started_at, func.clock_timestamp()),
        },
    )


def mark_running(db: Session, run_id: int, attempt: int) -> Run | None:
    return move(db, run_id, RunStatus.RUNNING, allowed=[RunStatus.STARTING], attempt=attempt)


def heartbeat(db: Session, run_id: int, attempt: int) -> Run | None:
    """Renew the lease. None means that it was lost: the process must be killed."""
    statement = (
        update(Run)
        .where(Run.id == run_id, Run.attempt == attempt, Run.status.in_([status.value for status in ACTIVE]))
        .values(lease_until=lease_end())
        .returning(Run)
    )
    return db.scalars(statement, execution_options={"populate_existing": True}).one_or_none()


def request_stop(db: Session, run: Run, *, user_id: int | None = None) -> Run:
    """Stop and save. A waiting or paused run is cancelled at once; a running one is ``stopping`` until its process is gone.

    Asking twice is harmless. Raises ConflictError where the run is over.
    """
    waiting = [RunStatus.QUEUED, RunStatus.INTERRUPTED, RunStatus.PAUSED]
    stopped = move(
        db,
        run.id,
        RunStatus.CANCELLED,
        allowed=waiting,
        user_id=user_id,
        values={"stop_requested": "save", **OVER},
    )
    stopped = stopped or move(
        db,
        run.id,
        RunStatus.STOPPING,
        allowed=[RunStatus.STARTING, RunStatus.RUNNING],
        user_id=user_id,
        values={"stop_requested": "save"},
    )
    if stopped is not None:
        return stopped
    db.refresh(run)
    if run.status == RunStatus.STOPPING:
        return run
    raise ConflictError(f"{run.name} is over: it {_past(run.status)}.", remedy="There is nothing left to stop.")


def _past(status: str) -> str:
    return {"succeeded": "has succeeded", "failed": "has failed", "cancelled": "was cancelled"}.get(status, status)


def finish(db: Session, run_id: int, attempt: int, to: RunStatus, *, reason: str = "", message: str = "") -> Run | None:
    """End an attempt's run for good. None where the attempt has lost it."""
    failed = to == RunStatus.FAILED
    return move(
        db,
        run_id,
        to,
        allowed=ACTIVE,
        attempt=attempt,
        reason=reason,
        message=message,
        values={
            "failure_reason": (reason or "unknown") if failed else None,
            "failure_message": message or None,
            **OVER,
        },
    )


def interrupt(db: Session, run_id: int, attempt: int, *, reason: str, message: str, lease_over: bool = False) -> None:
    """The attempt ended without the run's doing: queue it again, or end it where it was asked to stop or failed too often.

    ``lease_over`` guards against a heartbeat that came in between.
    """
    conditions = [Run.lease_until < func.clock_timestamp()] if lease_over else []
    stopped = move(
        db,
        run_id,
        RunStatus.CANCELLED,
        allowed=[RunStatus.STOPPING],
        attempt=attempt,
        reason=reason,
        message=message,
        conditions=conditions,
        values=OVER,
    )
    if stopped is not None:
        return
    run = move(
        db,
        run_id,
        RunStatus.INTERRUPTED,
        allowed=[RunStatus.STARTING, RunStatus.RUNNING],
        attempt=attempt,
        reason=reason,
        message=message,
        conditions=conditions,
        values={"lease_until": None},
    )
    if run is not None:
        requeue(db, run)


def requeue(db: Session, run: Run) -> Run | None:
    """An interrupted run waits for a worker again, until its worker was lost ``max_attempts`` times."""
    lost = db.scalar(
        select(func.count()).where(
            RunEvent.run_id == run.id, RunEvent.kind == "state", RunEvent.data["reason"].astext == LEASE_LOST
        )
    )
    bound = get_settings().max_attempts
    if lost is not None and lost >= bound:
        message = f"Its worker was lost {lost} times, so it is not started again by itself."
        return move(
            db,
            run.id,
            RunStatus.FAILED,
            allowed=[RunStatus.INTERRUPTED],
            message=message,
            values={"failure_reason": "unknown", "failure_message": message, **OVER},
        )
    queued = move(db, run.id, RunStatus.QUEUED, allowed=[RunStatus.INTERRUPTED], values={"worker": None})
    if queued is not None:
        enqueue(db, ALIGN_TASK, run.id, queue=QUEUE_TRAIN)
    return queued
