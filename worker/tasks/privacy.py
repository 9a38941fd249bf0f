"""Erasures, the daily retention, and the search for personal data in what is stored."""

from __future__ import annotations

from app.core.db import session_scope
from app.core.queue import celery_client
from app.privacy import erasing, retention, stored
from worker.celery_app import app


@app.task(name="worker.tasks.privacy.erase")  # type: ignore[untyped-decorator]  # Celery has no types
def erase(erasure_id: int) -> None:
    if erasing.work(erasure_id) == "done":
        with session_scope() as db:
            retention.ask_again(db, erasure_id)


@app.task(name="worker.tasks.privacy.sweep")  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Every minute: erasures that wait, or whose worker is gone."""
    with session_scope() as db:
        ids = erasing.waiting(db)
    for erasure_id in ids:
        celery_client().send_task(erasing.TASK, args=(erasure_id,))


@app.task(name="worker.tasks.privacy.retain")  # type: ignore[untyped-decorator]
def retain() -> None:
    with session_scope() as db:
        retention.ask(db)


@app.task(name="worker.tasks.privacy.scan")  # type: ignore[untyped-decorator]
def scan(project_id: int) -> None:
    stored.scan(project_id)
