"""Feedback on outputs that have not come yet: kept in PostgreSQL, joined when they come, shown when they do not.

The transaction that brings an output takes the feedback that waits for it. One that stores feedback at the same moment can miss
it (neither sees the other): a task looks every minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, Text, any_, delete, func, literal, or_, select, text
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.feedback.bulk import insert_rows
from app.feedback.outputs import Row
from app.feedback.ratings import ANOTHERS, rater_key
from app.feedback.schemas import Thumb
from app.models import Completion, PendingFeedback, Project, Rating

OVERDUE = timedelta(days=7)
SWEEP_ROWS = 1000
_SAID = ("reasons", "comment", "correction")

_INSERT = text(
    """
    INSERT INTO pending_feedback (project_id, source, rater, completion_external_id, external_id, item)
    SELECT :project, r.* FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(source text, rater text, completion_external_id text, external_id text, item jsonb)
    ORDER BY rater, completion_external_id
    ON CONFLICT (project_id, source, rater, completion_external_id)
        DO UPDATE SET external_id = EXCLUDED.external_id, item = EXCLUDED.item
    """
)

_TAKE = text(
    """
    DELETE FROM pending_feedback
    WHERE project_id = :project AND completion_external_id = ANY(CAST(:names AS text[]))
    RETURNING id, source, rater, completion_external_id, external_id, item
    """
)

Key = tuple[str, str]
"""Rater and the app's id of the output."""


class _Board:
    """What waits, of those that a batch touches: decides item by item, writes once."""

    def __init__(self, waiting: Sequence[PendingFeedback], rated: set[str], source: str) -> None:
        self.source = source
        self.items: dict[Key, dict[str, Any]] = {}
        self.external_ids: dict[Key, str | None] = {}
        self.owners: dict[str, Key] = {}
        self.rated = rated
        """Ids of feedback on outputs that are here."""
        self.changed: dict[Key, None] = {}
        for row in waiting:
            key = (row.rater, row.completion_external_id)
            self.items[key], self.external_ids[key] = row.item, row.external_id
            if row.external_id:
                self.owners[row.external_id] = key

    def add(self, row: Row, *, put: bool) -> None:
        thumb = row.item
        assert isinstance(thumb, Thumb)
        assert thumb.completion_id is not None
        value, own_id = bool(thumb.value), thumb.external_id
        owner = self.owners.get(own_id) if own_id else None
        rater = thumb.rater or (owner[0] if owner else None)
        rater = rater_key(rater, external_id=own_id, completion_id=thumb.completion_id, value=value)
        key = (rater, thumb.completion_id)
        before = self.external_ids.get(key)
        if own_id and (own_id in self.rated or owner not in (None, key)):
            row.refuse("external_id", f"{own_id} is already {ANOTHERS}")
            return
        if put and own_id and before and before != own_id:
            row.refuse(
                "external_id", f"this rater's feedback on this output has the id {before}; send it under that id"
            )
            return
        said = _as_json(thumb, value)
        old = self.items.get(key)
        if old is not None:
            if thumb.occurred_at is not None and said["occurred_at"] < old["occurred_at"]:
                return
            if old["value"] == value:
                said = {**{name: old[name] for name in _SAID if name in old}, **said}
        self.items[key] = said
        self.external_ids[key] = own_id or before
        if own_id:
            self.owners[own_id] = key
            if before and before != own_id:
                self.owners.pop(before, None)
        self.changed[key] = None

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "source": self.source,
                "rater": rater,
                "completion_external_id": target,
                "external_id": self.external_ids[rater, target],
                "item": self.items[rater, target],
            }
            for rater, target in self.changed
        ]


def _as_json(thumb: Thumb, value: bool) -> dict[str, Any]:
    """Times are all of UTC and of one form, so that they compare as text."""
    at = (thumb.occurred_at or utcnow()).astimezone(UTC).isoformat(timespec="microseconds")
    item: dict[str, Any] = {"value": value, "occurred_at": at, "metadata": thumb.metadata}
    return item | {name: told for name in _SAID if (told := getattr(thumb, name)) is not None}


def keep_waiting(db: Session, project: Project, rows: list[Row], source: str, *, put: bool) -> None:
    """Store thumbs whose output is not here. Marks each row as pending, or refuses it."""
    if not rows:
        return
    targets = list({row.item.completion_id for row in rows})
    ids = list({row.item.external_id for row in rows if row.item.external_id})
    mine = (PendingFeedback.project_id == project.id, PendingFeedback.source == source)
    query = select(PendingFeedback).where(
        *mine,
        or_(
            PendingFeedback.completion_external_id == any_(literal(targets, ARRAY(Text))),
            PendingFeedback.external_id == any_(literal(ids, ARRAY(Text))),
        ),
    )
    waiting = db.scalars(query.order_by(PendingFeedback.id).with_for_update().execution_options(populate_existing=True))
    rated = select(Rating.external_id).where(
        Rating.project_id == project.id,
        Rating.source == source,
        Rating.is_current,
        Rating.external_id == any_(literal(ids, ARRAY(Text))),
    )
    board = _Board(waiting.all(), {found for found in db.scalars(rated) if found} if ids else set(), source)
    for row in rows:
        board.add(row, put=put)
        row.is_pending = not row.error
    if board.changed:
        insert_rows(db, _INSERT, project.id, board.rows())


def take_waiting(db: Session, project_id: int, rows: list[Row]) -> dict[str, list[Row]]:
    """What waited for the outputs that ``rows`` name, by source, in the order in which it came. It waits no longer."""
    here = {row.item.completion_id: row.completion_id for row in rows if row.completion_id is not None}
    here.pop(None, None)
    if not here:
        return {}
    gone = db.execute(_TAKE, {"project": project_id, "names": list(here)})
    found: dict[str, list[Row]] = {}
    for waited in sorted(gone, key=lambda each: each.id):
        found.setdefault(waited.source, []).append(_row(waited, here[waited.completion_external_id]))
    return found


def _row(waited: Any, completion_id: int | None) -> Row:
    said = waited.item
    thumb = Thumb.model_construct(
        label=said["value"],
        rater=waited.rater,
        external_id=waited.external_id,
        completion_id=waited.completion_external_id,
        reasons=said.get("reasons"),
        comment=said.get("comment"),
        correction=said.get("correction"),
        occurred_at=datetime.fromisoformat(said["occurred_at"]),
        metadata=said.get("metadata", {}),
    )
    return Row(thumb, completion_id=completion_id)


def forget_waiting(db: Session, project_id: int, source: str, external_id: str) -> bool:
    """Un-click of what waits. False where nothing did."""
    gone = (
        delete(PendingFeedback)
        .where(
            PendingFeedback.project_id == project_id,
            PendingFeedback.source == source,
            PendingFeedback.external_id == external_id,
        )
        .returning(PendingFeedback.id)
        .execution_options(synchronize_session=False)
    )
    return db.scalar(gone) is not None


def missed(db: Session, limit: int = SWEEP_ROWS) -> dict[int, dict[str, int]]:
    """Project -> the app's ids and our ids of outputs that are here and that feedback still waits for."""
    query = (
        select(PendingFeedback.project_id, Completion.external_id, Completion.id)
        .join(
            Completion,
            (Completion.project_id == PendingFeedback.project_id)
            & (Completion.external_id == PendingFeedback.completion_external_id),
        )
        .limit(limit)
    )
    found: dict[int, dict[str, int]] = {}
    for project_id, external_id, completion_id in db.execute(query):
        assert external_id is not None
        found.setdefault(project_id, {})[external_id] = completion_id
    return found


def waiting_list(
    db: Session, project: Project, older_than: timedelta = OVERDUE, limit: int = 100
) -> Sequence[PendingFeedback]:
    """Feedback that has waited for its output for so long, the oldest first."""
    query = select(PendingFeedback).where(
        PendingFeedback.project_id == project.id, PendingFeedback.created_at <= utcnow() - older_than
    )
    return db.scalars(query.order_by(PendingFeedback.created_at).limit(limit)).all()


def count_waiting(db: Session, project: Project, older_than: timedelta = timedelta(0)) -> int:
    query = select(func.count()).select_from(PendingFeedback)
    where = (PendingFeedback.project_id == project.id, PendingFeedback.created_at <= utcnow() - older_than)
    return db.scalar(query.where(*where)) or 0
