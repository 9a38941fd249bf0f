"""Imports a file. The message only names the import: the row decides what is to do."""

from __future__ import annotations

from app.core.db import session_scope
from app.feedback.imports.leases import requeue_stale_imports
from app.feedback.imports.runner import run_import as work
from worker.celery_app import app


@app.task(name="worker.tasks.imports.run_import")  # type: ignore[untyped-decorator]  # Celery has no types
def run_import(import_id: int) -> None:
    """Harmless to repeat: a second worker finds nothing to claim."""
    work(import_id)


@app.task(name="worker.tasks.imports.reap_imports")  # type: ignore[untyped-decorator]  # Celery has no types
def reap_imports() -> None:
    """Imports whose worker is gone go on elsewhere; drafts that nobody started are removed."""
    with session_scope() as db:
        requeue_stale_imports(db)
