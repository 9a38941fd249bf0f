"""Who works on an export: claimed in one statement, kept by a lease, given up to another worker when the lease lapses.

The lease's end is also its token: a worker that overslept finds another value in the row and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session, joinedload

from app.core.clock import utcnow
from app.core.queue import enqueue
from app.models import Export, ModelVersion, Run
from app.registry.exports import TASK
from app.settings import get_settings

MAX_TRIES = 3


def _lease_end() -> datetime:
    return utcnow() + timedelta(seconds=get_settings().lease_seconds)


def claim(db: Session, export_id: int) -> Export | None:
    """The export, now ours until ``lease_until``; None when it is done, or somebody else's."""
    now = utcnow()
    lapsed = and_(Export.status == "running", Export.lease_until < now)
    row = db.scalar(
        update(Export)
        .where(Export.id == export_id, or_(Export.status == "queued", lapsed))
        .values(status="running", lease_until=_lease_end(), message="", finished_at=None)
        .returning(Export.report)
    )
    if row is None:
        return None
    export = db.scalars(select(Export).where(Export.id == export_id).execution_options(populate_existing=True)).one()
    export.report = {"tries": row.get("tries", 0) + 1}
    db.flush()
    return export


def version_of(db: Session, export: Export) -> ModelVersion:
    return db.scalars(
        select(ModelVersion)
        .options(joinedload(ModelVersion.run).joinedload(Run.snapshot), joinedload(ModelVersion.checkpoint))
        .where(ModelVersion.id == export.version_id)
    ).one()


def renew(db: Session, export_id: int, token: datetime) -> datetime | None:
    """The new token; None when the lease was lost."""
    return _write(db, export_id, token, {"lease_until": _lease_end()})


def finish(
    db: Session,
    export_id: int,
    token: datetime,
    *,
    status: str,
    message: str = "",
    report: Mapping[str, Any] | None = None,
    path: str | None = None,
    size_bytes: int = 0,
) -> bool:
    """False when the lease was lost: then another worker's result counts."""
    values = {
        "status": status,
        "message": message,
        "report": dict(report or {}),
        "path": path,
        "size_bytes": size_bytes,
        "finished_at": utcnow(),
    }
    return _write(db, export_id, token, values) is not None


def _write(db: Session, export_id: int, token: datetime, values: Mapping[str, Any]) -> datetime | None:
    return db.scalar(
        update(Export)
        .where(Export.id == export_id, Export.status == "running", Export.lease_until == token)
        .values(**values)
        .returning(Export.lease_until)
    )


def requeue_stale_exports(db: Session) -> list[int]:
    """Ring again for exports that nobody works on; returns their ids. One that was dropped MAX_TRIES times has failed.

    A queued export is rung for once per lease: its ``lease_until`` says until when the last message counts.
    """
    now = utcnow()
    waited = now - timedelta(seconds=get_settings().lease_seconds)
    unheard = and_(
        Export.status == "queued",
        or_(Export.lease_until < now, and_(Export.lease_until.is_(None), Export.created_at < waited)),
    )
    lapsed = and_(Export.status == "running", Export.lease_until < now)
    rung = []
    for export in db.scalars(select(Export).where(or_(unheard, lapsed)).with_for_update(skip_locked=True)).all():
        if export.status == "running" and export.report.get("tries", 0) >= MAX_TRIES:
            export.status, export.finished_at = "failed", now
            export.message = f"The worker was lost {MAX_TRIES} times while it made this; it may lack memory."
            continue
        export.status, export.lease_until = "queued", _lease_end()
        enqueue(db, TASK, export.id)
        rung.append(export.id)
    db.flush()
    return rung
