"""Calls webhooks when the doorbell rings and every few seconds; clears old events."""

from __future__ import annotations

from app.core.db import session_scope
from app.webhooks.delivery import deliver_due
from app.webhooks.events import TASK
from app.webhooks.service import clear_old
from worker.celery_app import app


@app.task(name=TASK)  # type: ignore[untyped-decorator]  # Celery has no types
def deliver() -> None:
    deliver_due()


@app.task(name="worker.tasks.webhooks.clear")  # type: ignore[untyped-decorator]  # Celery has no types
def clear() -> None:
    with session_scope() as db:
        clear_old(db)
