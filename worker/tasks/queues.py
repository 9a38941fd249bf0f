"""Every few minutes: annotation queues are filled by their filters and ordered by coverage."""

from __future__ import annotations

from app.feedback import queue_task
from worker.celery_app import app


@app.task(name="worker.tasks.queues.refresh_queues")  # type: ignore[untyped-decorator]  # Celery has no types
def refresh_queues() -> None:
    queue_task.refresh_all()


@app.task(name="worker.tasks.queues.refresh_queue")  # type: ignore[untyped-decorator]
def refresh_queue(queue_id: int) -> None:
    """As soon as a lead has changed it."""
    queue_task.refresh(queue_id)
