"""Works through an evaluation job. The message only names it: the row decides what is to do, and a second message finds
nothing to claim.
"""

from __future__ import annotations

from worker import jobs
from worker.celery_app import app


@app.task(name="worker.tasks.evaluate.evaluate")  # type: ignore[untyped-decorator]  # Celery has no types
def evaluate(job_id: int) -> None:
    jobs.work(job_id)
