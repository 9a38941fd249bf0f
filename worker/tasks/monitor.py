"""Every few minutes: votes and answers of projects in use, and an incident where they ask for one."""

from __future__ import annotations

import logging
from datetime import timedelta

from sqlalchemy import select

from app.core.clock import utcnow
from app.core.db import session_scope
from app.models import Project, Rating
from app.registry import incidents
from worker.celery_app import MONITOR_SECONDS, app

log = logging.getLogger(__name__)


@app.task(name="worker.tasks.monitor.monitor")  # type: ignore[untyped-decorator]  # Celery has no types
def monitor() -> None:
    """A project whose figures cannot be read must not keep the others from being watched."""
    since = utcnow() - timedelta(seconds=3 * MONITOR_SECONDS)
    with session_scope() as db:
        ids = list(db.scalars(select(Rating.project_id).where(Rating.created_at >= since).distinct()))
    for project_id in ids:
        try:
            with session_scope() as db:
                incidents.check(db, db.get_one(Project, project_id))
        except Exception:
            log.exception("Project %s could not be watched", project_id)
