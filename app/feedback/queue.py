"""Claims: who looks at which slot of a queue, and the verdict that ends it.

A claim is written on the slot's own row by one UPDATE over ``FOR UPDATE SKIP LOCKED``: a row that another person took between
our snapshot and our lock is checked again by PostgreSQL, so nobody gets it twice. With overlap there are several slots of one
completion; a lock per (queue, person) keeps one person's tabs from taking two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Select, Update, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.core.clock import utcnow
from app.core.errors import ConflictError, NotFoundError
from app.feedback.ratings import rate, retract
from app.models import AnnotationQueue, AnnotationSlot, Completion, Prompt, Rating, User

LEASE = timedelta(minutes=5)
SOURCE = "annotation"
HISTORY = 20
LOST = "Someone else has this one now. Next."


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


def held(db: Session, queue: AnnotationQueue, user: User) -> list[Item]:
    """What the person holds now, in the queue's order."""
    query = (
        select(AnnotationSlot, Completion, Prompt)
        .join(Completion, Completion.id == AnnotationSlot.completion_id)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(
            AnnotationSlot.queue_id == queue.id,
            AnnotationSlot.done_at.is_(None),
            AnnotationSlot.claimed_by == user.id,
            AnnotationSlot.claimed_until > utcnow(),
        )
        .order_by(AnnotationSlot.priority, AnnotationSlot.id)
        .execution_options(populate_existing=True)
    )
    return [Item(*row) for row in db.execute(query)]


def hold(db: Session, queue: AnnotationQueue, user: User, want: int = 2) -> list[Item]:
    """Claim until the person holds ``want`` items (the one on screen and the next), or none is left."""
    db.execute(select(func.pg_advisory_xact_lock(queue.id, user.id)))
    missing = want - len(held(db, queue, user))
    while missing > 0 and _claim(db, queue, user):
        missing -= 1
    return held(db, queue, user)


def _claim(db: Session, queue: AnnotationQueue, user: User) -> bool:
    now = utcnow()
    chosen = _free_slots(queue, user).limit(1).with_for_update(skip_locked=True).scalar_subquery()
    claimed = db.execute(
        update(AnnotationSlot)
        .where(AnnotationSlot.id == chosen)
        .values(claimed_by=user.id, claimed_until=now + LEASE)
        .returning(AnnotationSlot.id)
        .execution_options(synchronize_session=False)
    )
    return claimed.first() is not None


def any_free(db: Session, queue: AnnotationQueue, user: User) -> bool:
    """Whether there is a slot that the person could claim now."""
    return db.scalar(_free_slots(queue, user).limit(1)) is not None


def _free_slots(queue: AnnotationQueue, user: User) -> Select[int]:
    """Open slots of the queue that this person may take: no second one of a completion, none they have rated."""
    now = utcnow()
    other = aliased(AnnotationSlot)
    mine = or_(other.done_by == user.id, (other.claimed_by == user.id) & (other.claimed_until > now))
    had = exists().where(
        other.queue_id == queue.id,
        other.completion_id == AnnotationSlot.completion_id,
        other.id != AnnotationSlot.id,
        mine,
    )
    rated = exists().where(
        Rating.completion_id == AnnotationSlot.completion_id,
        Rating.source == SOURCE,
        Rating.rater == rater_of(user),
        Rating.is_current,
    )
    return (
        select(AnnotationSlot.id)
        .where(
            AnnotationSlot.queue_id == queue.id,
            AnnotationSlot.done_at.is_(None),
            or_(AnnotationSlot.claimed_until.is_(None), AnnotationSlot.claimed_until <= now),
            ~had,
            ~rated,
        )
        .order_by(AnnotationSlot.priority, AnnotationSlot.id)
    )


def renew(db: Session, queue: AnnotationQueue, user: User) -> int:
    """Heartbeat: five more minutes for what the person holds. Returns how many items these are."""
    renewed = db.execute(_mine(queue, user).values(claimed_until=utcnow() + LEASE).returning(AnnotationSlot.id))
    return len(renewed.all())


def release(db: Session, queue: AnnotationQueue, user: User) -> None:
    """On leaving: what the person holds is free at once."""
    db.execute(_mine(queue, user).values(claimed_by=None, claimed_until=None))


def _mine(queue: AnnotationQueue, user: User) -> Update:
    return (
        update(AnnotationSlot)
        .where(
            AnnotationSlot.queue_id == queue.id,
            AnnotationSlot.claimed_by == user.id,
            AnnotationSlot.done_at.is_(None),
        )
        .execution_options(synchronize_session=False)
    )


def decide(
    db: Session,
    queue: AnnotationQueue,
    user: User,
    slot_id: int,
    value: bool | None,
    *,
    reasons: Sequence[str] = (),
    comment: str | None = None,
) -> int | None:
    """A verdict (None = skip) on a slot that the person holds, or that nobody does; returns the rating's id. Sent twice, it counts once.

    Raises ConflictError when the lease ran out and someone else has the slot, NotFoundError for another queue's slot.
    """
    _take_again(db, queue, user, slot_id)
    taken = db.execute(
        _mine(queue, user)
        .where(AnnotationSlot.id == slot_id)
        .values(
            done_at=utcnow(),
            done_by=user.id,
            claimed_by=None,
            claimed_until=None,
            skip_reason=(", ".join(reasons) or "") if value is None else None,
        )
        .returning(AnnotationSlot.completion_id)
    ).scalar()
    if taken is None:
        return _decided_before(db, queue, user, slot_id)
    if value is None:
        return None
    _, rating_id = rate(
        db,
        queue.project_id,
        taken,
        source=SOURCE,
        rater=rater_of(user),
        value=value,
        reasons=list(reasons),
        comment=comment or None,
    )
    db.execute(
        update(AnnotationSlot)
        .where(AnnotationSlot.id == slot_id)
        .values(rating_id=rating_id)
        .execution_options(synchronize_session=False)
    )
    return rating_id


def _take_again(db: Session, queue: AnnotationQueue, user: User, slot_id: int) -> None:
    """A reload gives the item back a moment after the new page has shown it: while nobody took it, it is still theirs."""
    free = _free_slots(queue, user).where(AnnotationSlot.id == slot_id).with_for_update(skip_locked=True)
    db.execute(
        update(AnnotationSlot)
        .where(AnnotationSlot.id == free.scalar_subquery(), AnnotationSlot.claimed_by.is_(None))
        .values(claimed_by=user.id, claimed_until=utcnow() + LEASE)
        .execution_options(synchronize_session=False)
    )


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
        select(AnnotationSlot, Prompt, Rating.value)
        .join(Completion, Completion.id == AnnotationSlot.completion_id)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .outerjoin(Rating, Rating.id == AnnotationSlot.rating_id)
        .where(AnnotationSlot.queue_id == queue.id, AnnotationSlot.done_by == user.id)
        .order_by(AnnotationSlot.done_at.desc(), AnnotationSlot.id.desc())
        .limit(limit)
        .execution_options(populate_existing=True)
    )
    return [Done(*row) for row in db.execute(query)]


def undo(db: Session, queue: AnnotationQueue, user: User) -> int | None:
    """Take the person's newest verdict back and give them the item again. Returns its slot, None where there is none."""
    db.execute(select(func.pg_advisory_xact_lock(queue.id, user.id)))
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
            claimed_by=user.id,
            claimed_until=utcnow() + LEASE,
        )
        .returning(AnnotationSlot.id)
        .execution_options(synchronize_session=False)
    ).scalar()
    if reopened is not None and rating_id is not None:
        retract(db, queue.project_id, rating_id)
    return reopened
