"""Hidden gold items: completions whose right verdict a lead has said, mixed unmarked into queues to measure their raters.

Each is a slot of its own for one person, who gets it once; the answer stays on the slot and is no rating.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Integer, Select, Text, bindparam, exists, func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.core.errors import InvalidError, NotFoundError
from app.models import AnnotationQueue, AnnotationSlot, Completion, GoldItem, Project, Prompt, Rating, User

MAX_NOTE = 2000
LAST = 2**31 - 1
"""Priority of their slots: behind what the person holds already, so that a reload shows the same item."""
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class GoldLine:
    item: GoldItem
    completion: Completion
    answers: int
    right: int


def give(db: Session, queue: AnnotationQueue, user: User, lease: timedelta) -> int | None:
    """A gold item that the person has not had, claimed for them; by chance, at the queue's rate. Returns its slot."""
    # The candidate is looked for first, whatever the chance says: how long an answer takes tells nothing.
    if not queue.gold_rate:
        return None
    wanted = {
        "project": queue.project_id,
        "user": user.id,
        "rater": f"user:{user.id}",
        "model": queue.filter.get("model") or None,
        "category": queue.filter.get("category") or None,
    }
    found = db.execute(_UNSEEN, wanted).first()
    if found is None or _random.random() >= queue.gold_rate:
        return None
    values = {
        "queue_id": queue.id,
        "completion_id": found.completion_id,
        "priority": LAST,
        "gold_id": found.id,
        "gold_for": user.id,
        "claimed_by": user.id,
        "claimed_until": utcnow() + lease,
    }
    statement = insert(AnnotationSlot).values(values).on_conflict_do_nothing().returning(AnnotationSlot.id)
    return db.scalar(statement)


def _unseen() -> Select[int, int]:
    """Gold items of the project that fit the queue and that the person has neither had nor rated, in no order."""
    user = bindparam("user", type_=Integer)
    model, category = bindparam("model", type_=Text), bindparam("category", type_=Text)
    had = exists().where(
        AnnotationSlot.completion_id == GoldItem.completion_id,
        or_(
            AnnotationSlot.gold_for == user,
            AnnotationSlot.done_by == user,
            (AnnotationSlot.claimed_by == user) & AnnotationSlot.done_at.is_(None),
        ),
    )
    rated = exists().where(
        Rating.completion_id == GoldItem.completion_id,
        Rating.source == "annotation",
        Rating.rater == bindparam("rater", type_=Text),
        Rating.is_current,
    )
    return (
        select(GoldItem.id, GoldItem.completion_id)
        .join(Completion, Completion.id == GoldItem.completion_id)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(GoldItem.project_id == bindparam("project", type_=Integer), GoldItem.retired_at.is_(None), ~had, ~rated)
        # One from outside would stand out; other conditions than these two do not show on an item.
        .where(or_(model.is_(None), Completion.model == model), or_(category.is_(None), Prompt.category == category))
        .order_by(func.random())
        .limit(1)
    )


_UNSEEN = _unseen()


def mark(db: Session, project: Project, completion: Completion, user: User, *, value: bool, note: str = "") -> GoldItem:
    """Says the right verdict, again where it was said before. Raises InvalidError for a note that is too long."""
    if len(note) > MAX_NOTE:
        raise InvalidError("The note is too long.", fields={"note": f"at most {MAX_NOTE:,} characters"})
    values = {"value": value, "note": note.strip(), "created_by": user.id, "retired_at": None}
    key = {"project_id": project.id, "completion_id": completion.id}
    statement = insert(GoldItem).values(**key, **values)
    statement = statement.on_conflict_do_update(index_elements=["project_id", "completion_id"], set_=values)
    gold_id = db.scalar(statement.returning(GoldItem.id))
    return db.get_one(GoldItem, gold_id, populate_existing=True)


def of_completion(db: Session, project: Project, completion_id: int) -> GoldItem | None:
    """The gold item that this completion is now."""
    query = select(GoldItem).where(GoldItem.project_id == project.id, GoldItem.completion_id == completion_id)
    return db.scalar(query.where(GoldItem.retired_at.is_(None)))


def retire(db: Session, project: Project, gold_id: int) -> GoldItem:
    """Nobody gets it any more; answers given stay. Raises NotFoundError."""
    item = db.scalar(select(GoldItem).where(GoldItem.project_id == project.id, GoldItem.id == gold_id))
    if item is None:
        raise NotFoundError("There is no such gold item in this project.")
    if item.retired_at is None:
        item.retired_at = utcnow()
        db.flush()
    return item


def lines(db: Session, project: Project, limit: int = 200) -> Sequence[GoldLine]:
    """Newest first, with how many answered and how many of these rightly."""
    answered = AnnotationSlot.gold_answer.is_not(None)
    answers = (
        select(
            func.count().filter(answered).label("answers"),
            func.count().filter(answered, AnnotationSlot.gold_answer == GoldItem.value).label("right"),
        )
        .where(AnnotationSlot.gold_id == GoldItem.id)
        .lateral()
    )
    query = (
        select(GoldItem, Completion, answers.c.answers, answers.c.right)
        .join(Completion, Completion.id == GoldItem.completion_id)
        .join(answers, literal(value=True))
        .where(GoldItem.project_id == project.id, GoldItem.retired_at.is_(None))
        .order_by(GoldItem.id.desc())
        .limit(limit)
    )
    return [GoldLine(*row) for row in db.execute(query)]
