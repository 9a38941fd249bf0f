"""Runs. The message only names a run: whether there is anything to do is decided by the claim in PostgreSQL."""

from __future__ import annotations

from typing import Any

from worker.celery_app import app
from worker.supervisor import supervise


@app.task(name="worker.tasks.align.align", bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
def align(self: Any, run_id: int) -> None:
    supervise(run_id, worker=self.request.hostname or "worker")
