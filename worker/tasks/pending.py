"""Every minute: feedback that missed its output joins it, idempotency keys of yesterday go."""

from __future__ import annotations

from app.core.db import session_scope
from app.feedback.idempotency import forget_old
from app.feedback.service import join_missed
from worker.celery_app import app


@app.task(name="worker.tasks.pending.sweep")  # type: ignore[untyped-decorator]  # Celery has no types
def sweep() -> None:
    with session_scope() as db:
        join_missed(db)
    with session_scope() as db:
        forget_old(db)
