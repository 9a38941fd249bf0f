"""Works through a reference check. The message only names it: the row decides, and a second message finds nothing to claim."""

from __future__ import annotations

from app.core.db import session_scope
from app.datasets.reference import requeue_stale
from worker import reference_check
from worker.celery_app import app


@app.task(name="worker.tasks.reference.check")  # type: ignore[untyped-decorator]  # Celery has no types
def check(check_id: int) -> None:
    reference_check.work(check_id)


@app.task(name="worker.tasks.reference.requeue")  # type: ignore[untyped-decorator]  # Celery has no types
def requeue() -> None:
    """Periodic: checks whose worker is gone, messages that Redis lost."""
    with session_scope() as db:
        requeue_stale(db)
