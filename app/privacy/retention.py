"""Retention: completions older than a project's number of days are erased, with their prompts and ratings.

Gold items stay until a lead retires them. Nothing goes by default.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.models import Completion, Erasure, Project
from app.privacy import erasing
from app.privacy.targets import RETENTION, is_old


def days_of(project: Project) -> int | None:
    """None: texts are kept."""
    days = (project.settings or {}).get("privacy", {}).get("retention_days")
    return int(days) if days else None


def ask(db: Session) -> int:
    """Queue an erasure of one batch for each project that has something too old and none under way."""
    asked = 0
    for project in db.scalars(select(Project).order_by(Project.id)):
        asked += _ask(db, project)
    return asked


def ask_again(db: Session, erasure_id: int) -> None:
    """After a batch: the next one."""
    erasure = db.get_one(Erasure, erasure_id)
    if erasure.kind == RETENTION:
        _ask(db, db.get_one(Project, erasure.project_id))


def _ask(db: Session, project: Project) -> bool:
    days = days_of(project)
    if days is None:
        return False
    before = (utcnow() - timedelta(days=days)).replace(microsecond=0)
    if not _has_old(db, project, before) or _is_open(db, project):
        return False
    erasing.request(db, project, RETENTION, before.isoformat(), by="retention")
    return True


def _has_old(db: Session, project: Project, before: datetime) -> bool:
    where = (Completion.project_id == project.id, is_old(before))
    return db.scalar(select(Completion.id).where(*where).order_by(Completion.id).limit(1)) is not None


def _is_open(db: Session, project: Project) -> bool:
    where = (Erasure.project_id == project.id, Erasure.kind == RETENTION, Erasure.status.in_(("queued", "running")))
    return db.scalar(select(Erasure.id).where(*where).limit(1)) is not None
