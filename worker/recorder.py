"""Writes a trainer's events into PostgreSQL: rows, checkpoints, evaluations and the run's summary, one transaction a batch.

Fenced: every batch first locks the run's row at the recorder's own attempt. Where another attempt has begun, nothing is written.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from app.core.db import session_scope
from app.core.errors import StudioError
from app.core.storage import artifacts_root
from app.models import ACTIVE, Checkpoint, ModelVersion, Run, RunEvent
from app.runs import lifecycle
from worker.alignment.events import Event
from worker.summary import summarise

log = logging.getLogger(__name__)


class LeaseLostError(Exception):
    """Another attempt has the run, or it is over: this one may write nothing more."""


class Recorder:
    def __init__(self, run_id: int, fence: int) -> None:
        self.run_id = run_id
        self.fence = fence
        """The attempt of the supervisor that writes."""

    def record(self, events: Sequence[Event], *, attempt: int, attempt_dir: Path) -> None:
        """Store ``events`` of ``attempt``: the own one, or an earlier one whose file was not read to its end.

        A second call with the same events changes nothing. Raises LeaseLostError where the fence no longer holds.
        """
        if not events:
            return
        with session_scope() as db:
            run = self._lock(db)
            new = self._insert(db, events, attempt)
            for event in new:
                self._apply(db, run, event, attempt, attempt_dir)
            lifecycle.ring(db, self.run_id)

    def last_seq(self, attempt: int) -> int:
        with session_scope() as db:
            where = (RunEvent.run_id == self.run_id, RunEvent.attempt == attempt, RunEvent.seq > 0)
            return db.scalar(select(func.coalesce(func.max(RunEvent.seq), 0)).where(*where)) or 0

    def _lock(self, db: Session) -> Run:
        active = [status.value for status in ACTIVE]
        run = db.scalar(
            select(Run)
            .where(Run.id == self.run_id, Run.attempt == self.fence, Run.status.in_(active))
            .with_for_update()
        )
        if run is None:
            raise LeaseLostError(f"run {self.run_id} is no longer attempt {self.fence}'s")
        return run

    def _insert(self, db: Session, events: Sequence[Event], attempt: int) -> list[Event]:
        rows = [
            {
                "run_id": self.run_id,
                "attempt": attempt,
                "seq": event.seq,
                "kind": event.kind,
                "step": event.step,
                "data": event.data,
                "at": datetime.fromisoformat(event.at),
            }
            for event in events
        ]
        statement = insert(RunEvent).values(rows).on_conflict_do_nothing().returning(RunEvent.seq)
        stored = set(db.scalars(statement))
        return [event for event in events if event.seq in stored]

    def _apply(self, db: Session, run: Run, event: Event, attempt: int, attempt_dir: Path) -> None:
        summarise(run, event)
        if event.kind == "run_started" and attempt == self.fence:
            db.flush()
            lifecycle.mark_running(db, run.id, attempt)
        elif event.kind == "checkpoint_saved":
            save_checkpoint(db, run, event, attempt, attempt_dir)
        elif event.kind == "checkpoint_removed":
            note_removal(db, run, event, attempt_dir)
        elif event.kind == "evaluation_finished":
            save_evaluation(db, run, event, attempt_dir)


def save_checkpoint(db: Session, run: Run, event: Event, attempt: int, attempt_dir: Path) -> None:
    """Only with the manifest that the trainer told of.

    A later attempt's checkpoint of the same step takes its place, unless a version was made of it: that keeps its files.
    One that the keep policy has removed before this was read is noted as such: its evaluation follows.
    """
    folder = attempt_dir / event.data["path"]
    removed_at = None
    try:
        digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    except FileNotFoundError:
        digest, removed_at = event.data["manifest_sha256"], datetime.fromisoformat(event.at)
    except OSError as error:
        log.warning("Checkpoint %s of %s is not taken: %s", event.step, run.name, error)
        return
    if digest != event.data["manifest_sha256"]:
        log.warning("Checkpoint %s of %s is not taken: its manifest has changed", event.step, run.name)
        return
    values: dict[str, Any] = {
        "attempt": attempt,
        "path": str(folder.absolute().relative_to(artifacts_root())),
        "manifest_sha256": digest,
        "size_bytes": event.data["size_bytes"],
        "is_last": event.data["is_last"],
        "removed_at": removed_at,
    }
    statement = insert(Checkpoint).values(project_id=run.project_id, run_id=run.id, step=event.data["step"], **values)
    is_version = select(ModelVersion.id).where(ModelVersion.checkpoint_id == Checkpoint.id).exists()
    replaced = (Checkpoint.attempt <= attempt) & ~is_version
    db.execute(statement.on_conflict_do_update(index_elements=["run_id", "step"], set_=values, where=replaced))


def note_removal(db: Session, run: Run, event: Event, attempt_dir: Path) -> None:
    """The files went by the keep policy. An attempt speaks for its own folder alone: another's row stays as it is."""
    path = str((attempt_dir / event.data["path"]).absolute().relative_to(artifacts_root()))
    where = (Checkpoint.run_id == run.id, Checkpoint.step == event.data["step"], Checkpoint.path == path)
    db.execute(update(Checkpoint).where(*where).values(removed_at=datetime.fromisoformat(event.at)))


def save_evaluation(db: Session, run: Run, event: Event, attempt_dir: Path) -> None:
    """A result that cannot be stored is logged: it must not end the training that it watches."""
    from app.evaluations.service import record_screen
    from worker.full_looks import ask_for_full

    where = (Checkpoint.run_id == run.id, Checkpoint.step == event.data["step"])
    checkpoint = db.scalar(select(Checkpoint).where(*where))
    if checkpoint is None:
        log.warning("The evaluation at step %s of %s has no checkpoint", event.step, run.name)
        return
    try:
        with db.begin_nested():
            record_screen(db, run=run, checkpoint=checkpoint, data=event.data, attempt_dir=attempt_dir)
    except (KeyError, TypeError, ValueError, DataError, IntegrityError):
        log.exception("The evaluation at step %s of %s is not of the agreed form", event.step, run.name)
        return
    try:
        with db.begin_nested():
            ask_for_full(db, run, checkpoint, event.data)
    except StudioError as error:
        log.warning("No full evaluation of step %s of %s: %s", event.step, run.name, error.message)
