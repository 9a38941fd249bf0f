"""Every few seconds: runs whose worker is gone go on elsewhere, messages that Redis lost are sent again."""

from __future__ import annotations

from app.core.db import session_scope
from app.evaluations.job_leases import requeue_stale_jobs
from app.registry.export_leases import requeue_stale_exports
from app.runs import reaping
from worker.celery_app import app
from worker.comparisons import advance_comparisons


@app.task(name="worker.tasks.reap.reap")  # type: ignore[untyped-decorator]  # Celery has no types
def reap() -> None:
    with session_scope() as db:
        reaping.reap_lost_leases(db)
    with session_scope() as db:
        reaping.requeue_interrupted(db)
    with session_scope() as db:
        reaping.ring_queued(db)
        reaping.forget_workers(db)
    with session_scope() as db:
        requeue_stale_exports(db)
    with session_scope() as db:
        requeue_stale_jobs(db)
    advance_comparisons()
