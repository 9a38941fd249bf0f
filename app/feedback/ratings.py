"""Verdicts: what a new one does to the same rater's earlier one. The only place that writes ratings.

One current rating per (project, source, rater, completion), and per (project, source, the feedback's own id). The completion's
row is locked while its ratings change, so two clients that send the same verdict at once leave one row; where two take one id
for two outputs, the unique index stops the second, and the caller looks again.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Text, any_, bindparam, select, text, update
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.feedback.announce import announce_verdicts
from app.feedback.bulk import INSERT_RATINGS, insert_rows
from app.models import Completion, Rating

Outcome = Literal["created", "updated", "unchanged"]
Key = tuple[int, str]
"""Completion and rater."""
CORRECTION_OF = "correction_of"
"""In the metadata of the rating that a correction gives the edit: our id of the completion that it corrects."""
ANOTHERS = "the feedback of another rater or on another output; use one id per feedback"


@dataclass(slots=True)
class Verdict:
    """A thumb on a stored completion. None means "not said": it changes nothing in an earlier verdict."""

    completion_id: int
    rater: str
    value: bool
    reasons: list[str] | None = None
    comment: str | None = None
    occurred_at: datetime | None = None
    external_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    correction_id: int | None = None
    """The rater's edit, stored already: it gets a thumb up of the same rater."""
    is_named: bool = True
    """False where ``rater`` was made up: feedback that is known by its own id keeps the rater that it has."""
    put: bool = False
    """The feedback's id must be the one that the rater's verdict has; else a new id takes over."""

    def says_more_than(self, old: Rating | Verdict) -> bool:
        return (
            self.value != old.value
            or (self.reasons is not None and self.reasons != (old.reasons or []))
            or (self.comment is not None and self.comment != old.comment)
            or (self.correction_id is not None and self.correction_id != old.correction_id)
            or (self.external_id is not None and self.external_id != old.external_id and self.put)
        )


@dataclass(slots=True)
class Stored:
    """What became of a verdict: the rating that is current now, or the words why it was refused."""

    outcome: Outcome
    rating_id: int = 0
    conflict: str = ""
    """About the feedback's own id; empty: none."""


def rater_key(
    rater: str | None, *, external_id: str | None = None, completion_id: str | None = None, value: bool
) -> str:
    """Who a verdict belongs to, where the source may not say.

    The rater's name; else the feedback's own id (the same feedback, changed, replaces itself); else the app's id of the
    output (one output has one end user); else all that is known is the thumb: equal thumbs on one text are one anonymous
    rating, opposite ones are two people and both stay as evidence. Nothing is superseded by a stranger.
    """
    if rater:
        return rater
    if external_id:
        return f"feedback:{external_id}"
    if completion_id:
        return f"output:{completion_id}"
    return "anonymous:up" if value else "anonymous:down"


_HISTORY = (
    select(Rating)
    .where(
        Rating.project_id == bindparam("project"),
        Rating.source == bindparam("source"),
        Rating.rater == any_(bindparam("raters", type_=ARRAY(Text))),
        Rating.completion_id == any_(bindparam("ids", type_=ARRAY(BigInteger))),
    )
    .order_by(Rating.is_current, Rating.id)
    .execution_options(populate_existing=True)
)
_CURRENT = _HISTORY.where(Rating.is_current)
_LOCK = (
    select(Completion.id)
    .where(
        Completion.project_id == bindparam("project"),
        Completion.id == any_(bindparam("ids", type_=ARRAY(BigInteger))),
    )
    .order_by(Completion.id)
    .with_for_update(key_share=True)
)


def _known(
    db: Session, project_id: int, source: str, ids: list[int], raters: list[str], *, history: bool
) -> dict[Key, list[Rating]]:
    """(completion, rater) -> ratings, the current one last."""
    found: dict[Key, list[Rating]] = {}
    values = {"project": project_id, "source": source, "raters": raters, "ids": ids}
    for row in db.scalars(_HISTORY if history else _CURRENT, values):
        found.setdefault((row.completion_id, row.rater), []).append(row)
    return found


def _owners(db: Session, project_id: int, source: str, external_ids: list[str]) -> dict[str, Key | None]:
    """Feedback's own id -> what it is the current feedback on; None: it waits for an output that is not here."""
    if not external_ids:
        return {}
    rows = db.execute(_OWNERS, {"project": project_id, "source": source, "ids": external_ids})
    return {name: (completion_id, rater) if completion_id is not None else None for name, completion_id, rater in rows}


_OWNERS = text(
    """
    SELECT external_id, completion_id, rater FROM ratings
    WHERE project_id = :project AND source = :source AND is_current AND external_id = ANY(CAST(:ids AS text[]))
    UNION ALL
    SELECT external_id, NULL, rater FROM pending_feedback
    WHERE project_id = :project AND source = :source AND external_id = ANY(CAST(:ids AS text[]))
    """
)


def _row(source: str, verdict: Verdict, now: datetime) -> dict[str, Any]:
    return {
        "completion_id": verdict.completion_id,
        "source": source,
        "rater": verdict.rater,
        "value": verdict.value,
        "reasons": verdict.reasons or [],
        "comment": verdict.comment,
        "external_id": verdict.external_id,
        "correction_id": verdict.correction_id,
        "metadata": verdict.extra,
        "occurred_at": verdict.occurred_at or now,
        "is_current": True,
    }


class _Board:
    """Ratings of one batch in the making: decides item by item, writes once."""

    def __init__(self, source: str, known: dict[Key, list[Rating]], owners: dict[str, Key | None]) -> None:
        self.source = source
        self.known = known
        self.owners = owners
        self.rows: list[dict[str, Any]] = []
        self.newest: dict[Key, int] = {}
        """Key -> index of its current row in ``rows``."""
        self.superseded: list[int] = []
        self.retracted: list[int] = []
        self.now = utcnow()

    def add(self, verdict: Verdict, *, skip_history: bool) -> tuple[Stored, int]:
        """What it does; the stored rating's id, else the index of the new row."""
        key = (verdict.completion_id, verdict.rater)
        if skip_history:
            for old in self.known.get(key, ()):
                if (
                    old.retracted_at is None
                    and not verdict.says_more_than(old)
                    and _same_time(verdict, old.occurred_at)
                ):
                    return Stored("unchanged", old.id), -1
        index = self.newest.get(key, -1)
        ratings = self.known.get(key, [])
        stored = ratings[-1] if ratings and ratings[-1].is_current else None
        before = _of_row(self.rows[index]) if index >= 0 else _of_rating(stored) if stored is not None else None
        conflict = self._conflict(verdict, key, before)
        if conflict:
            return Stored("unchanged", conflict=conflict), -1
        if before is None:
            return Stored("created"), self._append(verdict, key)
        if _older(verdict, before.occurred_at) or not verdict.says_more_than(before):
            return Stored("unchanged", stored.id if index < 0 and stored else 0), index
        _carry_over(verdict, before)
        self._supersede(key)
        if before.external_id != verdict.external_id:
            self.owners.pop(before.external_id or "", None)
        if before.correction_id is not None and before.correction_id != verdict.correction_id:
            self.take_back_edit((before.correction_id, verdict.rater))
        return Stored("updated"), self._append(verdict, key)

    def _conflict(self, verdict: Verdict, key: Key, before: Verdict | None) -> str:
        name = verdict.external_id
        if name is None:
            return ""
        if self.owners.get(name, key) != key:
            return f"{name} is already {ANOTHERS}"
        if verdict.put and before is not None and before.external_id not in (None, name):
            return f"this rater's feedback on this output has the id {before.external_id}; send it under that id"
        return ""

    def _supersede(self, key: Key) -> None:
        if key in self.newest:
            self.rows[self.newest.pop(key)]["is_current"] = False
        else:
            self.superseded.append(self.known[key][-1].id)

    def take_back_edit(self, key: Key) -> None:
        """The thumb up that a correction gave to the edit; not one that the rater gave by themselves."""
        if key in self.newest:
            if CORRECTION_OF in self.rows[self.newest[key]]["metadata"]:
                self._supersede(key)
            return
        ratings = self.known.get(key, [])
        if ratings and ratings[-1].is_current and CORRECTION_OF in ratings[-1].extra:
            self.retracted.append(ratings.pop().id)

    def _append(self, verdict: Verdict, key: Key) -> int:
        self.rows.append(_row(self.source, verdict, self.now))
        self.newest[key] = index = len(self.rows) - 1
        if key in self.known:
            self.known[key] = []
        if verdict.external_id is not None:
            self.owners[verdict.external_id] = key
        if verdict.correction_id is not None:
            edit = Verdict(verdict.correction_id, verdict.rater, True, occurred_at=verdict.occurred_at)
            edit.extra = {CORRECTION_OF: verdict.completion_id}
            self.add(edit, skip_history=False)
        return index


def _of_row(row: dict[str, Any]) -> Verdict:
    told = (row["reasons"], row["comment"], row["occurred_at"], row["external_id"])
    return Verdict(row["completion_id"], row["rater"], row["value"], *told, correction_id=row["correction_id"])


def _of_rating(old: Rating) -> Verdict:
    told = (old.reasons, old.comment, old.occurred_at, old.external_id)
    return Verdict(old.completion_id, old.rater, old.value, *told, correction_id=old.correction_id)


def _same_time(verdict: Verdict, at: datetime) -> bool:
    return verdict.occurred_at is None or verdict.occurred_at == at


def _older(verdict: Verdict, at: datetime | None) -> bool:
    return verdict.occurred_at is not None and at is not None and verdict.occurred_at < at


def _carry_over(verdict: Verdict, before: Verdict) -> None:
    """A comment added to an unchanged thumb keeps the reasons given before, and the other way round."""
    verdict.external_id = verdict.external_id or before.external_id
    if verdict.value == before.value:
        verdict.reasons = before.reasons if verdict.reasons is None else verdict.reasons
        verdict.comment = before.comment if verdict.comment is None else verdict.comment
        verdict.correction_id = verdict.correction_id or before.correction_id


def _board(
    db: Session, project_id: int, source: str, verdicts: Sequence[Verdict], new: Container[int], *, history: bool
) -> _Board:
    """Locks what is rated, and reads what is known of it."""
    owners = _owners(db, project_id, source, list({each.external_id for each in verdicts if each.external_id}))
    for each in verdicts:
        owner = owners.get(each.external_id or "")
        if owner is not None and not each.is_named and owner[0] == each.completion_id:
            each.rater = owner[1]
    known: dict[Key, list[Rating]] = {}
    raters = list({each.rater for each in verdicts})
    wanted = {each.completion_id for each in verdicts} | {each.correction_id for each in verdicts}
    while missing := sorted(each for each in wanted if each is not None and each not in new):
        db.execute(_LOCK, {"project": project_id, "ids": missing}).all()
        found = _known(db, project_id, source, missing, raters, history=history)
        known |= found
        edits = {rating.correction_id for ratings in found.values() for rating in ratings if rating.is_current}
        wanted = edits - wanted
    return _Board(source, known, owners)


def store_verdicts(
    db: Session,
    project_id: int,
    source: str,
    verdicts: Sequence[Verdict],
    *,
    skip_history: bool = False,
    new: Container[int] = (),
) -> list[Stored]:
    """What became of each verdict, in order. Verdicts of one rater in one batch take effect in order.

    ``skip_history``: a verdict that this rater gave before, even one superseded since, changes nothing (for files that are
    read again). ``new``: completions that this transaction made, which nobody else can have rated. Flushes.
    """
    if not verdicts:
        return []
    board = _board(db, project_id, source, verdicts, new, history=skip_history)
    decided = [board.add(verdict, skip_history=skip_history) for verdict in verdicts]
    _write_ends(db, project_id, board)
    new_ids = (
        sorted(number for (number,) in insert_rows(db, INSERT_RATINGS, project_id, board.rows)) if board.rows else []
    )
    for stored, index in decided:
        if index >= 0:
            stored.rating_id = new_ids[index]
    if board.rows and not skip_history:  # a file that is read in is no news: a million rows would be a million calls
        announce_verdicts(
            db, project_id, {stored.rating_id: stored.outcome for stored, _ in decided if stored.outcome != "unchanged"}
        )
    return [stored for stored, _ in decided]


def _write_ends(db: Session, project_id: int, board: _Board) -> None:
    for ids, values in (
        (board.superseded, {"is_current": False}),
        (board.retracted, {"is_current": False, "retracted_at": board.now}),
    ):
        if ids:
            db.execute(
                update(Rating)
                .where(Rating.project_id == project_id, Rating.id.in_(ids))
                .values(**values)
                .execution_options(synchronize_session=False)
            )


def rate(
    db: Session,
    project_id: int,
    completion_id: int,
    *,
    source: str,
    rater: str,
    value: bool,
    reasons: list[str] | None = None,
    comment: str | None = None,
) -> tuple[Outcome, int]:
    """One verdict on one completion of the project. Returns what it did and the rating's id."""
    verdict = Verdict(completion_id, rater, value, reasons, comment)
    stored = store_verdicts(db, project_id, source, [verdict])[0]
    return stored.outcome, stored.rating_id


def retract(db: Session, project_id: int, rating_id: int) -> bool:
    """Un-click: the rating stays in the history, no longer current. False where it was not current."""
    return bool(_retract(db, project_id, Rating.id == rating_id))


def retract_by_external_id(db: Session, project_id: int, source: str, external_id: str) -> bool:
    """Un-click of feedback by its own id. False where there is none."""
    return bool(_retract(db, project_id, (Rating.source == source) & (Rating.external_id == external_id)))


def _retract(db: Session, project_id: int, which: ColumnElement[bool]) -> list[int]:
    """Ids of what is no longer current. The thumb up that a correction gave goes with the thumb down."""
    done = db.execute(
        update(Rating)
        .where(Rating.project_id == project_id, which, Rating.is_current)
        .values(is_current=False, retracted_at=utcnow())
        .returning(Rating.id, Rating.source, Rating.rater, Rating.correction_id)
        .execution_options(synchronize_session=False)
    ).all()
    for _, source, rater, correction_id in done:
        if correction_id is not None:
            edit = (Rating.completion_id == correction_id) & (Rating.source == source) & (Rating.rater == rater)
            _retract(db, project_id, edit & Rating.extra.has_key(CORRECTION_OF))
    return [row.id for row in done]
