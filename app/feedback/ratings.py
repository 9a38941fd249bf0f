"""Verdicts: what a new one does to the same rater's earlier one. The only place that writes ratings.

One current rating per (project, source, rater, completion). The completion's row is locked while its ratings change, so two
clients that send the same verdict at once leave one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ARRAY, BigInteger, any_, literal, select, update
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.feedback.bulk import INSERT_RATINGS, fresh_ids, insert_rows
from app.models import Completion, Rating

Outcome = Literal["created", "updated", "unchanged"]


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

    def says_more_than(self, old: Rating | Verdict) -> bool:
        return (
            self.value != old.value
            or (self.reasons is not None and self.reasons != (old.reasons or []))
            or (self.comment is not None and self.comment != old.comment)
        )


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


def _known(
    db: Session, project_id: int, source: str, ids: list[int], *, history: bool
) -> dict[tuple[int, str], list[Rating]]:
    """(completion, rater) -> ratings, the current one last."""
    query = select(Rating).where(
        Rating.project_id == project_id,
        Rating.source == source,
        Rating.completion_id == any_(literal(ids, ARRAY(BigInteger))),
    )
    if not history:
        query = query.where(Rating.is_current)
    found: dict[tuple[int, str], list[Rating]] = {}
    for row in db.scalars(query.order_by(Rating.is_current, Rating.id).execution_options(populate_existing=True)):
        found.setdefault((row.completion_id, row.rater), []).append(row)
    return found


def _row(source: str, verdict: Verdict, now: datetime) -> dict[str, Any]:
    return {
        "completion_id": verdict.completion_id,
        "source": source,
        "rater": verdict.rater,
        "value": verdict.value,
        "reasons": verdict.reasons or [],
        "comment": verdict.comment,
        "external_id": verdict.external_id,
        "metadata": verdict.extra,
        "occurred_at": verdict.occurred_at or now,
        "is_current": True,
    }


class _Board:
    """Ratings of one batch in the making: decides item by item, writes once."""

    def __init__(self, source: str, known: dict[tuple[int, str], list[Rating]]) -> None:
        self.source = source
        self.known = known
        self.rows: list[dict[str, Any]] = []
        self.newest: dict[tuple[int, str], int] = {}
        """Key -> index of its current row in ``rows``."""
        self.superseded: list[int] = []
        self.now = utcnow()

    def add(self, verdict: Verdict, *, skip_history: bool) -> tuple[Outcome, int | None, int]:
        """What it does, the stored rating's id where there is one, else the index of the new row."""
        key = (verdict.completion_id, verdict.rater)
        if skip_history:
            for old in self.known.get(key, ()):
                if (
                    old.retracted_at is None
                    and not verdict.says_more_than(old)
                    and _same_time(verdict, old.occurred_at)
                ):
                    return "unchanged", old.id, -1
        if key in self.newest:
            return self._after(verdict, key)
        ratings = self.known.get(key, [])
        current = ratings[-1] if ratings and ratings[-1].is_current else None
        if current is None:
            return "created", None, self._append(verdict, key)
        if _older(verdict, current.occurred_at) or not verdict.says_more_than(current):
            return "unchanged", current.id, -1
        _carry_over(verdict, current.value, current.reasons, current.comment)
        self.superseded.append(current.id)
        return "updated", None, self._append(verdict, key)

    def _after(self, verdict: Verdict, key: tuple[int, str]) -> tuple[Outcome, int | None, int]:
        """The same rater twice in one batch."""
        index = self.newest[key]
        row = self.rows[index]
        old = Verdict(key[0], key[1], row["value"], row["reasons"], row["comment"])
        if _older(verdict, row["occurred_at"]) or not verdict.says_more_than(old):
            return "unchanged", None, index
        _carry_over(verdict, row["value"], row["reasons"], row["comment"])
        row["is_current"] = False
        return "updated", None, self._append(verdict, key)

    def _append(self, verdict: Verdict, key: tuple[int, str]) -> int:
        self.rows.append(_row(self.source, verdict, self.now))
        self.newest[key] = len(self.rows) - 1
        return len(self.rows) - 1


def _same_time(verdict: Verdict, at: datetime) -> bool:
    return verdict.occurred_at is None or verdict.occurred_at == at


def _older(verdict: Verdict, at: datetime) -> bool:
    return verdict.occurred_at is not None and verdict.occurred_at < at


def _carry_over(verdict: Verdict, value: bool, reasons: list[Any], comment: str | None) -> None:
    """A comment added to an unchanged thumb keeps the reasons given before, and the other way round."""
    if verdict.value == value:
        verdict.reasons = reasons if verdict.reasons is None else verdict.reasons
        verdict.comment = comment if verdict.comment is None else verdict.comment


def store_verdicts(
    db: Session, project_id: int, source: str, verdicts: Sequence[Verdict], *, skip_history: bool = False
) -> list[tuple[Outcome, int]]:
    """Outcome and rating id of each verdict, in order. Verdicts of one rater in one batch take effect in order.

    ``skip_history``: a verdict that this rater gave before, even one superseded since, changes nothing (for files that are
    read again). Flushes.
    """
    if not verdicts:
        return []
    ids = sorted({verdict.completion_id for verdict in verdicts})
    lock = select(Completion.id).where(
        Completion.project_id == project_id, Completion.id == any_(literal(ids, ARRAY(BigInteger)))
    )
    db.execute(lock.order_by(Completion.id).with_for_update(key_share=True)).all()
    board = _Board(source, _known(db, project_id, source, ids, history=skip_history))
    outcomes = [board.add(verdict, skip_history=skip_history) for verdict in verdicts]
    if board.superseded:
        db.execute(
            update(Rating)
            .where(Rating.project_id == project_id, Rating.id.in_(board.superseded))
            .values(is_current=False)
            .execution_options(synchronize_session=False)
        )
    new_ids = fresh_ids(db, "ratings", len(board.rows)) if board.rows else []
    if board.rows:
        rows = [{"id": number, **row} for number, row in zip(new_ids, board.rows, strict=True)]
        insert_rows(db, INSERT_RATINGS, project_id, rows)
    return [(outcome, old_id if old_id is not None else new_ids[index]) for outcome, old_id, index in outcomes]


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
    return store_verdicts(db, project_id, source, [verdict])[0]


def retract(db: Session, project_id: int, rating_id: int) -> bool:
    """Un-click: the rating stays in the history, no longer current. False where it was not current."""
    done = db.execute(
        update(Rating)
        .where(Rating.project_id == project_id, Rating.id == rating_id, Rating.is_current)
        .values(is_current=False, retracted_at=utcnow())
        .returning(Rating.id)
        .execution_options(synchronize_session=False)
    )
    return done.first() is not None
