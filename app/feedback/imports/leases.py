"""Who works on an import: claimed in one statement, kept by a lease; ``attempt`` fences off a worker that overslept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event, Thread
from typing import Any

from sqlalchemy import and_, case, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.errors import StudioError
from app.core.queue import enqueue
from app.feedback.imports import drafts
from app.models import Import
from app.settings import get_settings

MAX_ATTEMPTS = 10


class LostError(Exception):
    """Another worker has this import, or it is gone."""


class CancelledError(Exception):
    """Somebody asked to stop it."""


@dataclass(frozen=True, slots=True)
class Job:
    import_id: int
    attempt: int


def lease_end() -> datetime:
    return utcnow() + timedelta(seconds=get_settings().lease_seconds)


def claim(db: Session, import_id: int) -> Job | None:
    """The import, now ours; None when it is over, or somebody else's."""
    lapsed = and_(Import.status.in_(("staging", "publishing")), Import.lease_until < utcnow())
    attempt = db.scalar(
        update(Import)
        .where(Import.id == import_id, or_(Import.status == "queued", lapsed))
        .values(
            status=case((Import.status == "queued", "staging"), else_=Import.status),
            attempt=Import.attempt + 1,
            lease_until=lease_end(),
        )
        .returning(Import.attempt)
    )
    return Job(import_id, attempt) if attempt is not None else None


def write(db: Session, job: Job, **values: Any) -> None:
    """Write progress and renew the lease. Raises LostError, and CancelledError where that was asked for."""
    asked = db.scalar(
        update(Import)
        .where(
            Import.id == job.import_id,
            Import.attempt == job.attempt,
            Import.status.in_(("staging", "publishing")),
        )
        .values(lease_until=lease_end(), **values)
        .returning(Import.cancel_requested)
    )
    if asked is None:
        raise LostError
    if asked:
        raise CancelledError


class Heartbeat:
    """Renews the lease three times a lease from a thread: some readers take minutes before their first row."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._over = Event()
        self._end: LostError | CancelledError | None = None

    def check(self) -> None:
        """Raises LostError or CancelledError once a beat has met one."""
        if self._end is not None:
            raise self._end

    def _beat(self) -> None:
        while not self._over.wait(get_settings().lease_seconds / 3):
            try:
                with session_scope() as db:
                    write(db, self._job)
            except (LostError, CancelledError) as end:
                self._end = end
                return
            except (SQLAlchemyError, StudioError):
                continue  # the database may be back at the next beat; if not, the work itself says so

    @contextmanager
    def beating(self) -> Iterator[None]:
        thread = Thread(target=self._beat, name=f"import-{self._job.import_id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


def requeue_stale_imports(db: Session) -> list[int]:
    """Ring again for imports that nobody works on; returns their ids. One dropped MAX_ATTEMPTS times has failed."""
    now = utcnow()
    waited = now - timedelta(seconds=get_settings().lease_seconds)
    unheard = and_(
        Import.status == "queued",
        or_(Import.lease_until < now, and_(Import.lease_until.is_(None), Import.started_at < waited)),
    )
    lapsed = and_(Import.status.in_(("staging", "publishing")), Import.lease_until < now)
    rung = []
    for entry in db.scalars(select(Import).where(or_(unheard, lapsed)).with_for_update(skip_locked=True)).all():
        if entry.cancel_requested:
            drafts.finish(db, entry.id, status="cancelled", error=None)
        elif entry.attempt >= MAX_ATTEMPTS:
            words = f"The worker was lost {MAX_ATTEMPTS} times during this import; it may lack memory."
            drafts.finish(db, entry.id, status="failed", error=words)
        else:
            if entry.status == "queued":
                entry.lease_until = lease_end()
            enqueue(db, drafts.TASK, entry.id)
            rung.append(entry.id)
    drafts.drop_old_drafts(db)
    db.flush()
    return rung
