"""What a periodic task mends: lost leases, queued runs whose message is gone, workers long not heard of."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.core.queue import QUEUE_TRAIN, enqueue
from app.core.redis import get_redis
from app.models import ACTIVE, Run, RunStatus, Worker
from app.runs import lifecycle


def reap_lost_leases(db: Session) -> list[int]:
    """Interrupt every run whose worker was not heard of for ``lease_seconds``; returns their ids."""
    lost = db.execute(
        select(Run.id, Run.attempt, Run.worker)
        .where(Run.status.in_([status.value for status in ACTIVE]), Run.lease_until < func.clock_timestamp())
        .order_by(Run.id)
        .with_for_update(skip_locked=True)
    ).all()
    for run_id, attempt, worker in lost:
        message = f"{worker or 'The worker'} lost its lease: it was not heard of in time."
        lifecycle.interrupt(db, run_id, attempt, reason=lifecycle.LEASE_LOST, message=message, lease_over=True)
    return [run_id for run_id, _, _ in lost]


def requeue_interrupted(db: Session) -> None:
    """Runs left between interrupted and queued."""
    statement = select(Run).where(Run.status == RunStatus.INTERRUPTED).with_for_update(skip_locked=True)
    for run in db.scalars(statement).all():
        lifecycle.requeue(db, run)


def ring_queued(db: Session) -> int:
    """Send again what Redis lost: as many messages as queued runs lack in the queue, oldest first."""
    queued = db.scalars(select(Run.id).where(Run.status == RunStatus.QUEUED).order_by(Run.id)).all()
    missing = len(queued) - int(str(get_redis().llen(QUEUE_TRAIN))) if queued else 0
    for run_id in queued[: max(missing, 0)]:
        enqueue(db, lifecycle.ALIGN_TASK, run_id, queue=QUEUE_TRAIN)
    return max(missing, 0)


def forget_workers(db: Session) -> None:
    db.execute(delete(Worker).where(Worker.heard_at < func.clock_timestamp() - timedelta(days=1)))
