"""Claims: who looks at which slot of a queue, and the verdict that ends it.

A claim is written on the slot's own row by one UPDATE over ``FOR UPDATE SKIP LOCKED``: a row that another person took between
our snapshot and our lock is checked again by PostgreSQL, so nobody gets it twice. With overlap there are several slots of one
completion; a lock per (queue, person) keeps one person's tabs from taking two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    Text,
    Update,
    any_,
    bindparam,
    case,
    cast,
    exists,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.dml import ReturningUpdate

from app.core.clock import utcnow
from app.core.errors import ConflictError, NotFoundError
from app.feedback import gold
from app.feedback.edits import store_edit
from app.feedback.ratings import Verdict, retract, store_verdicts
from app.models import AnnotationQueue, AnnotationSlot, Completion, Prompt, Rating, User

LEASE = timedelta(minutes=5)
SOURCE = "annotation"
HISTORY = 20
LOST = "Someone else has this one now. Next."
_NOW = bindparam("now", type_=DateTime(timezone=True))
_UNTIL = bindparam("until", type_=DateTime(timezone=True))


@dataclass(frozen=True, slots=True)
class Item:
    """A claimed slot with what is to be judged."""

    slot: AnnotationSlot
    completion: Completion
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Done:
    """One of a person's own last verdicts."""

    slot: AnnotationSlot
    prompt: Prompt
    value: bool | None
    """None when skipped."""


def rater_of(user: User) -> str:
    return f"user:{user.id}"


def held_ids(db: Session, queue: AnnotationQueue, user: User) -> list[int]:
    """Slots that the person holds now, in the queue's order."""
    return list(db.scalars(_HELD, _named(queue, user)))


def _named(queue: AnnotationQueue, user: User) -> dict[str, Any]:
    """Values of the statements at the end of this file."""
    now = utcnow()
    return {"queue": queue.id, "user": user.id, "rater": rater_of(user), "now": now, "until": now + LEASE}


def items(db: Session, slot_ids: Sequence[int]) -> list[Item]:
    """The slots with what is to be judged, in the order asked for."""
    if not slot_ids:
        return []
    found = {
        slot.id: Item(slot, completion, prompt)
        for slot, completion, prompt in db.execute(_ITEMS, {"slots": list(slot_ids)})
    }
    return [found[slot_id] for slot_id in slot_ids if slot_id in found]


def held(db: Session, queue: AnnotationQueue, user: User) -> list[Item]:
    """What the person holds now, in the queue's order."""
    return items(db, held_ids(db, queue, user))


def hold(db: Session, queue: AnnotationQueue, user: User, want: int = 2) -> list[Item]:
    """Claim until the person holds ``want`` items (the one on screen and the next), or none is left."""
    return items(db, hold_ids(db, queue, user, want))


def hold_ids(
    db: Session, queue: AnnotationQueue, user: User, want: int = 2, *, after: tuple[int, int] | None = None
) -> list[int]:
    """As ``hold``, the slots' ids alone. ``after``: (priority, id) from where to look on.

    Of a queue with overlap a quick person leaves the others' slots of all that they judged at its head: who goes on from
    their own last one does not walk past these each time. What lies before is looked at when nothing is left behind.
    """
    lock(db, queue, user)
    mine = held_ids(db, queue, user)
    while len(mine) < want:
        claimed = gold.give(db, queue, user, LEASE) or _claim(db, queue, user, after)
        if claimed is None and after is not None:
            claimed = _claim(db, queue, user, None)
        if claimed is None:
            break
        mine.append(claimed)
    return mine


def lock(db: Session, queue: AnnotationQueue, user: User) -> None:
    """One person's tabs take turns, until the transaction ends."""
    db.execute(_LOCK, {"queue": queue.id, "user": user.id})


def _claim(db: Session, queue: AnnotationQueue, user: User, after: tuple[int, int] | None) -> int | None:
    values = _named(queue, user)
    if after is None:
        return db.scalar(_CLAIM, values)
    return db.scalar(_CLAIM_AFTER, values | {"past": after[0], "past_slot": after[1]})


def any_free(db: Session, queue: AnnotationQueue, user: User) -> bool:
    """Whether there is a slot that the person could claim now."""
    return db.scalar(_FREE.limit(1), _named(queue, user)) is not None


def renew(db: Session, queue: AnnotationQueue, user: User) -> int:
    """Heartbeat: five more minutes for what the person holds. Returns how many items these are."""
    return len(db.execute(_RENEW, _named(queue, user)).all())


def release(db: Session, queue: AnnotationQueue, user: User) -> None:
    """On leaving: what the person holds is free at once."""
    db.execute(_RELEASE, _named(queue, user))


@dataclass(frozen=True, slots=True)
class Decided:
    """What a verdict did. ``rating_id``: None for a skip and for a hidden gold item."""

    rating_id: int | None
    place: tuple[int, int] | None = None
    """(priority, id) of the slot; None where it says nothing of where to look on."""
    is_new: bool = False
    """False where it was sent before."""


def decide(
    db: Session,
    queue: AnnotationQueue,
    user: User,
    slot_id: int,
    value: bool | None,
    *,
    reasons: Sequence[str] = (),
    comment: str | None = None,
    took_ms: int | None = None,
) -> int | None:
    """As ``settle``; returns the rating's id."""
    return settle(db, queue, user, slot_id, value, reasons=reasons, comment=comment, took_ms=took_ms).rating_id


def settle(
    db: Session,
    queue: AnnotationQueue,
    user: User,
    slot_id: int,
    value: bool | None,
    *,
    reasons: Sequence[str] = (),
    comment: str | None = None,
    took_ms: int | None = None,
    correction: str | None = None,
) -> Decided:
    """A verdict (None = skip) on a slot that the person holds, or that nobody does. Sent twice, it counts once.

    ``took_ms``: time on screen. ``correction``: the answer as it should have been; the verdict is down then. Raises ConflictError when the lease ran out and someone else has the slot, NotFoundError for
    another queue's slot.
    """
    values = _named(queue, user) | {
        "slot": slot_id,
        "took": took_ms,
        "skip": (", ".join(reasons) or "") if value is None else None,
        "answer": value,
    }
    taken = db.execute(_FINISH, values).first()
    if taken is None:
        db.execute(_TAKE_AGAIN, values)
        taken = db.execute(_FINISH, values).first()
    if taken is None:
        return Decided(_decided_before(db, queue, user, slot_id))
    place = (taken.priority, slot_id)
    if taken.gold_id is not None:
        return Decided(None, is_new=True)
    if value is None:
        return Decided(None, place, is_new=True)
    edit_id = store_edit(db, queue.project_id, taken.completion_id, correction) if correction else None
    given = Verdict(taken.completion_id, rater_of(user), value, list(reasons), comment or None, correction_id=edit_id)
    rating_id = store_verdicts(db, queue.project_id, SOURCE, [given])[0].rating_id
    db.execute(_NAME_RATING, {"slot": slot_id, "rating": rating_id})
    return Decided(rating_id, place, is_new=True)


def _decided_before(db: Session, queue: AnnotationQueue, user: User, slot_id: int) -> int | None:
    query = select(AnnotationSlot.done_by, AnnotationSlot.rating_id)
    row = db.execute(query.where(AnnotationSlot.queue_id == queue.id, AnnotationSlot.id == slot_id)).first()
    if row is None:
        raise NotFoundError("There is no such item in this queue.")
    if row.done_by != user.id:
        raise ConflictError(LOST)
    return row.rating_id  # type: ignore[no-any-return]


def last_done(db: Session, queue: AnnotationQueue, user: User, limit: int = HISTORY) -> list[Done]:
    """The person's own last verdicts, newest first."""
    query = (
        select(AnnotationSlot, Prompt, func.coalesce(Rating.value, AnnotationSlot.gold_answer))
        .join(Completion, Completion.id == AnnotationSlot.completion_id)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .outerjoin(Rating, Rating.id == AnnotationSlot.rating_id)
        .where(
            AnnotationSlot.queue_id == queue.id, AnnotationSlot.done_by == user.id, AnnotationSlot.done_at.is_not(None)
        )
        .where(Rating.bulk_id.is_(None))
        .order_by(AnnotationSlot.done_at.desc(), AnnotationSlot.id.desc())
        .limit(limit)
        .execution_options(populate_existing=True)
    )
    return [Done(*row) for row in db.execute(query)]


def undo(db: Session, queue: AnnotationQueue, user: User) -> int | None:
    """Take the person's newest verdict back and give them the item again. Returns its slot, None where there is none."""
    lock(db, queue, user)
    newest = last_done(db, queue, user, limit=1)
    if not newest:
        return None
    slot = newest[0].slot
    rating_id = slot.rating_id
    reopened = db.execute(
        update(AnnotationSlot)
        .where(AnnotationSlot.id == slot.id, AnnotationSlot.done_by == user.id)
        .values(
            done_at=None,
            done_by=None,
            rating_id=None,
            skip_reason=None,
            took_ms=None,
            gold_answer=None,
            claimed_by=user.id,
            claimed_until=utcnow() + LEASE,
        )
        .returning(AnnotationSlot.id)
        .execution_options(synchronize_session=False)
    ).scalar()
    if reopened is not None and rating_id is not None:
        retract(db, queue.project_id, rating_id)
    return reopened


# ---- statements, built once: building them for each verdict took longer than running them
_MINE = (
    AnnotationSlot.queue_id == bindparam("queue", type_=Integer),
    AnnotationSlot.claimed_by == bindparam("user", type_=Integer),
    AnnotationSlot.done_at.is_(None),
)
_HELD = (
    select(AnnotationSlot.id)
    .where(*_MINE, AnnotationSlot.claimed_until > _NOW)
    .order_by(AnnotationSlot.priority, AnnotationSlot.id)
)
_ITEMS = (
    select(AnnotationSlot, Completion, Prompt)
    .join(Completion, Completion.id == AnnotationSlot.completion_id)
    .join(Prompt, Prompt.id == Completion.prompt_id)
    .where(AnnotationSlot.id == any_(bindparam("slots", type_=ARRAY(BigInteger))))
    .execution_options(populate_existing=True)
)
_LOCK = text("SELECT pg_advisory_xact_lock(:queue, :user)")


def _free() -> Select[int]:
    """Open slots of the queue that this person may take: no second one of a completion, none they have rated."""
    user = bindparam("user", type_=Integer)
    other = aliased(AnnotationSlot)
    mine = or_(other.done_by == user, (other.claimed_by == user) & (other.claimed_until > _NOW))
    had = exists().where(
        other.queue_id == AnnotationSlot.queue_id,
        other.completion_id == AnnotationSlot.completion_id,
        other.id != AnnotationSlot.id,
        mine,
    )
    rated = exists().where(
        Rating.completion_id == AnnotationSlot.completion_id,
        Rating.source == SOURCE,
        Rating.rater == bindparam("rater", type_=Text),
        Rating.is_current,
    )
    return (
        select(AnnotationSlot.id)
        .where(
            AnnotationSlot.queue_id == bindparam("queue", type_=Integer),
            AnnotationSlot.done_at.is_(None),
            or_(AnnotationSlot.claimed_until.is_(None), AnnotationSlot.claimed_until <= _NOW),
            or_(AnnotationSlot.gold_for.is_(None), AnnotationSlot.gold_for == user),
            ~had,
            ~rated,
        )
        .order_by(AnnotationSlot.priority, AnnotationSlot.id)
    )


def _update(*where: ColumnElement[bool], **values: Any) -> Update:
    return update(AnnotationSlot).where(*where).values(**values).execution_options(synchronize_session=False)


def _claiming(free: Select[int]) -> ReturningUpdate[int]:
    chosen = free.limit(1).with_for_update(skip_locked=True).scalar_subquery()
    return _update(AnnotationSlot.id == chosen, **_CLAIMED).returning(AnnotationSlot.id)


_CLAIMED = {"claimed_by": bindparam("user", type_=Integer), "claimed_until": _UNTIL}
_THIS = AnnotationSlot.id == bindparam("slot", type_=BigInteger)
_FREE = _free()
_CLAIM = _claiming(_FREE)
_CLAIM_AFTER = _claiming(
    _FREE.where(
        tuple_(AnnotationSlot.priority, AnnotationSlot.id)
        > tuple_(bindparam("past", type_=Integer), bindparam("past_slot", type_=BigInteger))
    )
)
# A reload gives the item back a moment after the new page has shown it: while nobody took it, it is still theirs.
_TAKE_AGAIN = _update(
    AnnotationSlot.id == _FREE.where(_THIS).with_for_update(skip_locked=True).scalar_subquery(),
    AnnotationSlot.claimed_by.is_(None),
    **_CLAIMED,
)
_RENEW = _update(*_MINE, claimed_until=_UNTIL).returning(AnnotationSlot.id)
_RELEASE = _update(*_MINE, claimed_by=None, claimed_until=None)
_FINISH = _update(
    *_MINE,
    _THIS,
    done_at=_NOW,
    done_by=bindparam("user", type_=Integer),
    claimed_by=None,
    claimed_until=None,
    took_ms=bindparam("took", type_=Integer),
    skip_reason=bindparam("skip", type_=Text),
    gold_answer=case(
        (AnnotationSlot.gold_id.is_not(None), cast(bindparam("answer", type_=Boolean), Boolean)), else_=None
    ),
).returning(AnnotationSlot.completion_id, AnnotationSlot.gold_id, AnnotationSlot.priority)
_NAME_RATING = _update(_THIS, rating_id=bindparam("rating", type_=BigInteger))
