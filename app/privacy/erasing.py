"""Erasing: asked for, waiting for runs that read the data, done in steps that can each be done again after a kill.

Copies go first and the rows last: as long as the rows are there, a second start finds from them what is still to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.errors import InvalidError
from app.core.queue import enqueue
from app.datasets.freeze import LOCK_SPACE
from app.models import (
    FINAL,
    AnnotationSlot,
    Completion,
    CompletionSubject,
    Erasure,
    EvalJob,
    Import,
    ModelVersion,
    PendingFeedback,
    Project,
    Prompt,
    RaterSetting,
    Rating,
    Run,
    Snapshot,
    User,
)
from app.privacy import copies, snapshots
from app.privacy.targets import COMPLETION, RATER, RETENTION, SUBJECT, Found, Target, look

log = logging.getLogger(__name__)
TASK = "worker.tasks.privacy.erase"
LEASE_SECONDS = 120
_CHUNK = 1_000
_ROUNDS = 5
Heartbeat = Callable[[], None]


class _LostError(Exception):
    """Another worker has the erasure now."""


def request(db: Session, project: Project, kind: str, who: str, user: User | None = None, *, by: str = "") -> Erasure:
    """Queue an erasure; an open one of the same person is returned as it is. Raises InvalidError for an empty name."""
    who = who.strip() if kind != RATER else who
    if not who or len(who) > 200 or "\x00" in who:
        raise InvalidError("The erasure was not queued.", fields={kind: "1 to 200 characters"})
    if kind == COMPLETION:
        where = (
            Completion.project_id == project.id,
            Completion.id == (int(who) if who.isdecimal() and len(who) < 19 else 0),
        )
        if db.scalar(select(Completion.id).where(*where)) is None:
            raise InvalidError(
                "The erasure was not queued.", fields={kind: "There is no such completion in this project"}
            )
    target = Target(kind, who)
    digest = target.hashed(project)
    db.execute(select(func.pg_advisory_xact_lock(LOCK_SPACE + 1, project.id)))
    is_open = (Erasure.project_id == project.id, Erasure.who_hash == digest, Erasure.status.in_(("queued", "running")))
    erasure = db.scalar(select(Erasure).where(*is_open))
    if erasure is None:
        erasure = Erasure(
            project_id=project.id,
            kind=kind,
            who_hash=digest,
            status="queued",
            target=target.stored(),
            requested_by=user.id if user else None,
        )
        db.add(erasure)
        db.flush()
        told = {"by": by} if by else {}
        audit.record(
            db,
            "erasure.requested",
            project_id=project.id,
            user_id=user.id if user else None,
            subject=f"{kind} {digest[:12]}",
            **told,
        )
        db.flush()
    enqueue(db, TASK, erasure.id)
    return erasure


def waiting(db: Session) -> list[int]:
    """Erasures that a worker should look at: queued, or left by one that is gone."""
    lapsed = and_(Erasure.status == "running", Erasure.lease_until < utcnow())
    return list(db.scalars(select(Erasure.id).where(or_(Erasure.status == "queued", lapsed)).order_by(Erasure.id)))


def work(erasure_id: int) -> str:
    """Do it, or say for what it waits; returns the status. Twice at once or after a kill is harmless."""
    with session_scope() as db:
        project_id = _claim(db, erasure_id)
    if project_id is None:
        return "not ours"
    beat = _heart(erasure_id)
    try:
        for _ in range(_ROUNDS):  # feedback goes on coming meanwhile
            status = _round(erasure_id, project_id, beat)
            if status:
                return status
        return _release(erasure_id, "queued", "New feedback of the same person keeps coming. It is tried again.")
    except _LostError:
        return "not ours"
    except Exception as error:
        log.exception("Erasure %s failed", erasure_id)
        return _release(
            erasure_id, "failed", f"{type(error).__name__}: see the worker's log. Start it again once it is mended."
        )


def _claim(db: Session, erasure_id: int) -> int | None:
    lapsed = and_(Erasure.status == "running", Erasure.lease_until < utcnow())
    return db.scalar(
        update(Erasure)
        .where(Erasure.id == erasure_id, or_(Erasure.status == "queued", lapsed))
        .values(status="running", error=None, lease_until=utcnow() + timedelta(seconds=LEASE_SECONDS))
        .returning(Erasure.project_id)
    )


def _heart(erasure_id: int) -> Heartbeat:
    """Renews the lease at most every quarter of it."""
    last = [utcnow()]

    def beat() -> None:
        if (utcnow() - last[0]).total_seconds() < LEASE_SECONDS / 4:
            return
        last[0] = utcnow()
        with session_scope() as db:
            ours = (Erasure.id == erasure_id, Erasure.status == "running")
            until = utcnow() + timedelta(seconds=LEASE_SECONDS)
            if db.scalar(update(Erasure).where(*ours).values(lease_until=until).returning(Erasure.id)) is None:
                raise _LostError

    return beat


def _release(erasure_id: int, status: str, message: str) -> str:
    with session_scope() as db:
        ours = (Erasure.id == erasure_id, Erasure.status == "running")
        db.execute(update(Erasure).where(*ours).values(status=status, error=message, lease_until=None))
    return status


def _round(erasure_id: int, project_id: int, beat: Heartbeat) -> str:
    with session_scope() as db:
        project, erasure = db.get_one(Project, project_id), db.get_one(Erasure, erasure_id)
        found = look(db, project, Target.read(erasure.kind, erasure.target or {}))
        hits = {one.id: snapshots.num_hits(one, found.keys) for one in _snapshots(db, project)} if found.keys else {}
        touched = [key for key, rows in hits.items() if rows]
        reason = _blockers(db, project, touched)
        seen = _newest(db, project)
    beat()
    if reason:
        return _release(erasure_id, "queued", reason)
    for snapshot_id in touched:
        _take_out(erasure_id, snapshot_id, found, beat)
    with session_scope() as db:
        for hit in db.get_one(Erasure, erasure_id).affected.get("snapshots", []):
            snapshots.remove_folder(db, hit["old_path"])
        uploads = copies.drop_uploads(db, project, found.traces, beat) if found.traces else []
        folders = copies.project_folders(db, project)
    for path in uploads:
        path.unlink(missing_ok=True)
    num_files = copies.clean_files(folders, found.traces, beat) if found.traces else 0
    return _finish(erasure_id, project_id, found, seen, num_files)


def _snapshots(db: Session, project: Project) -> list[Snapshot]:
    return list(db.scalars(select(Snapshot).where(Snapshot.project_id == project.id).order_by(Snapshot.id)))


def _newest(db: Session, project: Project) -> int:
    return db.scalar(select(func.max(Snapshot.id)).where(Snapshot.project_id == project.id)) or 0


def _blockers(db: Session, project: Project, touched: list[int]) -> str:
    """What reads the data at this moment: erasing under it would leave a copy in its memory and its next files."""
    final = [status.value for status in FINAL]
    open_runs = (Run.snapshot_id.in_(touched), Run.status.not_in(final))
    runs = db.scalars(select(Run.name).where(*open_runs).order_by(Run.id).limit(5)).all()
    if runs:
        return f"Waits for the run {', '.join(runs)}, which reads a snapshot with these texts. Let it end, or stop it."
    jobs = (EvalJob.project_id == project.id, EvalJob.status == "running")
    if (title := db.scalar(select(EvalJob.title).where(*jobs).limit(1))) is not None:
        return f"Waits for the evaluation {title}, which is running."
    imports = (Import.project_id == project.id, Import.status.in_(("queued", "staging", "publishing")))
    if (name := db.scalar(select(Import.filename).where(*imports).limit(1))) is not None:
        return f"Waits for the import of {name}."
    return ""


def _take_out(erasure_id: int, snapshot_id: int, found: Found, beat: Heartbeat) -> None:
    """One snapshot, durable with the note of what was done to it before its old files go."""
    with session_scope() as db:
        snapshot = db.scalars(select(Snapshot).where(Snapshot.id == snapshot_id).with_for_update()).one()
        hit = snapshots.take_out(db, snapshot, found.keys, beat)
        if hit is None:
            return
        erasure = db.scalars(select(Erasure).where(Erasure.id == erasure_id).with_for_update()).one()
        affected = dict(erasure.affected)
        affected["snapshots"] = [*affected.get("snapshots", []), hit]
        affected.update(_trained(db, [item["id"] for item in affected["snapshots"]]))
        erasure.affected = affected


def _trained(db: Session, ids: list[int]) -> dict[str, Any]:
    """Runs and versions that learned from what was erased: their weights are not changed by erasing it."""
    runs = db.execute(select(Run.id, Run.name).where(Run.snapshot_id.in_(ids), Run.step > 0).order_by(Run.id)).all()
    numbers = select(ModelVersion.id, ModelVersion.number).where(ModelVersion.run_id.in_([run.id for run in runs]))
    return {
        "runs": [{"id": run.id, "name": run.name} for run in runs],
        "versions": [
            {"id": key, "number": number} for key, number in db.execute(numbers.order_by(ModelVersion.number))
        ],
    }


def _finish(erasure_id: int, project_id: int, found: Found, seen: int, num_files: int) -> str:
    """Copies in tables and the rows themselves, in one transaction; "" where more has come meanwhile."""
    with session_scope() as db:
        project = db.get_one(Project, project_id)
        db.execute(select(func.pg_advisory_xact_lock(LOCK_SPACE, project_id)))  # nothing is frozen meanwhile
        erasure = db.scalars(select(Erasure).where(Erasure.id == erasure_id).with_for_update()).one()
        if erasure.status != "running" or erasure.target is None:
            return "not ours"
        target = Target.read(erasure.kind, erasure.target)
        now = look(db, project, target)
        if now.keys != found.keys or now.ratings != found.ratings or _newest(db, project) != seen:
            return ""
        quoted = copies.clean_tables(db, project, now.traces, lambda: None) if now.traces else 0
        _delete(db, project, target, now)
        hits = erasure.affected.get("snapshots", [])
        erasure.counts = {**now.counts, "copies": quoted, "files": num_files, **snapshots.totals(hits)}
        erasure.status, erasure.target, erasure.lease_until, erasure.finished_at = "done", None, None, utcnow()
        audit.record(
            db,
            "erasure.done",
            project_id=project_id,
            user_id=erasure.requested_by,
            subject=f"{erasure.kind} {erasure.who_hash[:12]}",
            **erasure.counts,
        )
    return "done"


def _delete(db: Session, project: Project, target: Target, found: Found) -> None:
    """Ratings go with completions, and so do slots, gold items, search and subjects (foreign keys)."""
    for start in range(0, len(found.ratings), _CHUNK):
        ids = found.ratings[start : start + _CHUNK]
        reopened = {"done_at": None, "done_by": None, "rating_id": None, "took_ms": None}
        slots = (AnnotationSlot.rating_id.in_(ids), AnnotationSlot.gold_id.is_(None))
        db.execute(update(AnnotationSlot).where(*slots).values(reopened))
        db.execute(delete(Rating).where(Rating.project_id == project.id, Rating.id.in_(ids)))
    for start in range(0, len(found.completions), _CHUNK):
        ids = found.completions[start : start + _CHUNK]
        db.execute(delete(Completion).where(Completion.project_id == project.id, Completion.id.in_(ids)))
    for start in range(0, len(found.prompts), _CHUNK):
        ids = found.prompts[start : start + _CHUNK]
        left = select(Completion.id).where(Completion.prompt_id == Prompt.id).exists()
        db.execute(delete(Prompt).where(Prompt.project_id == project.id, Prompt.id.in_(ids), ~left))
    own = PendingFeedback.project_id == project.id
    if found.external_ids:
        db.execute(delete(PendingFeedback).where(own, PendingFeedback.completion_external_id.in_(found.external_ids)))
    if target.kind == RATER:
        db.execute(delete(PendingFeedback).where(own, PendingFeedback.rater == target.who))
        mine = (RaterSetting.project_id == project.id, RaterSetting.rater == target.who)
        db.execute(delete(RaterSetting).where(*mine))
        if target.who.startswith("user:") and target.who[5:].isdecimal():
            gold = (AnnotationSlot.gold_for == int(target.who[5:]), AnnotationSlot.gold_id.is_not(None))
            ours = select(Completion.id).where(Completion.project_id == project.id)
            db.execute(delete(AnnotationSlot).where(*gold, AnnotationSlot.completion_id.in_(ours)))
    elif target.kind == SUBJECT:
        mine_too = (CompletionSubject.project_id == project.id, CompletionSubject.subject == target.who)
        db.execute(delete(CompletionSubject).where(*mine_too))


__all__ = ["RETENTION", "TASK", "request", "waiting", "work"]
