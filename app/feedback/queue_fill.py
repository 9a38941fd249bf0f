"""Annotation queues and what lies in them: slots, one per wanted verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, func, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.feedback.coverage import UNKNOWN, thin_categories
from app.feedback.filters import STATES, Filter, filtered_ids
from app.feedback.queue_stats import Progress, progress
from app.models import AnnotationQueue, Completion, Project, Prompt, Rating

__all__ = ["Progress", "progress"]

DEFAULT_QUEUE = "main"
MAX_OVERLAP = 10
MAX_INSTRUCTIONS = 5000
MAX_GOLD = 0.5
CHUNK = 5000
"""Completions looked at in one statement, and in one transaction of the task."""
LOW_COVERAGE = "low_coverage"
QUEUE_STATES = (*STATES, LOW_COVERAGE)

_FILL = text(
    """
    WITH wanted AS (
        SELECT c.id,
               count(s.id) FILTER (WHERE s.done_at IS NULL OR s.rating_id IS NOT NULL) AS has,
               coalesce(max(s.number) + 1, 0) AS next_number
        FROM unnest(CAST(:ids AS bigint[])) AS c(id)
        LEFT JOIN annotation_slots s ON s.completion_id = c.id AND s.queue_id = :queue AND s.gold_id IS NULL
        GROUP BY c.id
    )
    INSERT INTO annotation_slots (queue_id, completion_id, number, priority)
    SELECT :queue, w.id, w.next_number + g, :priority
    FROM wanted w CROSS JOIN LATERAL generate_series(0, CAST(:overlap AS bigint) - w.has - 1) g
    WHERE w.has < :overlap AND (:again OR w.next_number = 0)
    ORDER BY w.id, g
    ON CONFLICT DO NOTHING
    RETURNING id
    """
)


def default_queue(db: Session, project: Project) -> AnnotationQueue:
    """The project's first queue, made where there is none."""
    query = select(AnnotationQueue).where(
        AnnotationQueue.project_id == project.id, AnnotationQueue.slug == DEFAULT_QUEUE
    )
    queue = db.scalar(query)
    if queue is None:
        values = {"project_id": project.id, "slug": DEFAULT_QUEUE, "name": "Main"}
        db.execute(upsert(AnnotationQueue).values(values).on_conflict_do_nothing())
        queue = db.scalars(query).one()
    return queue


_QUEUE = select(AnnotationQueue).where(
    AnnotationQueue.project_id == bindparam("project"), AnnotationQueue.slug == bindparam("slug")
)


def get_queue(db: Session, project: Project, slug: str) -> AnnotationQueue:
    """Raises NotFoundError, also for another project's queue."""
    queue = db.scalar(_QUEUE, {"project": project.id, "slug": slug}) if slug.isprintable() else None
    if queue is None:
        raise NotFoundError("There is no such queue in this project.")
    return queue


def list_queues(db: Session, project: Project) -> Sequence[AnnotationQueue]:
    query = select(AnnotationQueue).where(AnnotationQueue.project_id == project.id)
    return db.scalars(query.order_by(AnnotationQueue.id)).all()


def save_queue(db: Session, project: Project, values: dict[str, str], slug: str | None = None) -> AnnotationQueue:
    """A new queue, or another form of the one called ``slug``, from a form's fields. Raises InvalidError with ``fields``."""
    clean = _checked(values)
    if slug is not None:
        queue = get_queue(db, project, slug)
        for key, value in clean.items():
            setattr(queue, key, value)
        db.flush()
        return queue
    wanted = re.sub(r"[^a-z0-9]+", "-", clean["name"].lower()).strip("-")[:60] or "queue"
    taken = set(db.scalars(select(AnnotationQueue.slug).where(AnnotationQueue.project_id == project.id)))
    new_slug = next(name for name in (wanted, *(f"{wanted}-{n}" for n in range(2, 10_000))) if name not in taken)
    statement = upsert(AnnotationQueue).values(project_id=project.id, slug=new_slug, **clean)
    if db.scalar(statement.on_conflict_do_nothing().returning(AnnotationQueue.id)) is None:
        raise ConflictError("A queue of this name was made at the same moment.", remedy="Look at the list of queues.")
    return get_queue(db, project, new_slug)


def _checked(values: dict[str, str]) -> dict[str, Any]:
    errors: dict[str, str] = {}
    name, instructions = values.get("name", "").strip(), values.get("instructions", "").strip()
    if not 1 <= len(name) <= 80 or not name.isprintable():
        errors["name"] = "1 to 80 characters"
    if len(instructions) > MAX_INSTRUCTIONS or "\x00" in instructions:
        errors["instructions"] = f"at most {MAX_INSTRUCTIONS:,} characters of text"
    overlap = _number(values.get("overlap", "1"))
    if overlap is None or overlap != int(overlap) or not 1 <= overlap <= MAX_OVERLAP:
        errors["overlap"] = f"a number from 1 to {MAX_OVERLAP}"
    gold = _number(values.get("gold_percent", "5"))
    if gold is None or not 0 <= gold <= 100 * MAX_GOLD:
        errors["gold_percent"] = f"a number from 0 to {100 * MAX_GOLD:g}"
    state = values.get("state", "")
    if state and state not in QUEUE_STATES:
        errors["state"] = f"one of {', '.join(QUEUE_STATES)}, or all"
    wanted = {key: values.get(key, "").strip() for key in ("category", "model", "source")}
    for key, value in wanted.items():
        if len(value) > 200 or "\x00" in value:
            errors[key] = "at most 200 characters"
    if errors:
        raise InvalidError("The queue does not fit.", fields=errors)
    wanted["state"] = state
    return {
        "name": name,
        "instructions": instructions,
        "overlap": int(overlap or 1),
        "gold_rate": (gold or 0) / 100,
        "filter": {key: value for key, value in wanted.items() if value},
    }


def _number(text_: str) -> float | None:
    return float(text_) if re.fullmatch(r"\d{1,4}(\.\d{1,3})?", text_.strip()) else None


def queue_completions(db: Session, project: Project, completion_ids: Sequence[int]) -> None:
    """Slots for new completions without a verdict, in the project's default queue while that one is open and takes all."""
    queue = default_queue(db, project)
    if queue.is_open and not queue.filter:
        _slots(db, queue, completion_ids, queue.overlap)


def queue_unlabelled(db: Session, project: Project, queue: AnnotationQueue) -> int:
    """Wants a verdict on every completion that has none, skipped ones again. Returns how many slots were made."""
    return _fill(db, project, queue, Filter(state="unrated"), queue.overlap)


def queue_everything(db: Session, project: Project, queue: AnnotationQueue, overlap: int) -> int:
    """Wants ``overlap`` annotators' verdicts on every completion, and on those that come later."""
    if not 1 <= overlap <= MAX_OVERLAP:
        raise InvalidError("The number does not fit.", fields={"overlap": f"a number from 1 to {MAX_OVERLAP}"})
    queue.overlap = overlap
    db.flush()
    return _fill(db, project, queue, Filter(), overlap)


def _fill(db: Session, project: Project, queue: AnnotationQueue, wanted: Filter, overlap: int) -> int:
    made, after = 0, 0
    while True:
        query = filtered_ids(project, wanted).where(Completion.id > after).order_by(Completion.id).limit(CHUNK)
        ids = db.scalars(query).all()
        if not ids:
            return made
        made, after = made + _slots(db, queue, ids, overlap), ids[-1]


def _slots(db: Session, queue: AnnotationQueue, ids: Sequence[int], overlap: int, *, again: bool = True) -> int:
    """``again``: also for completions that have been in the queue, where verdicts are still wanting."""
    values = {"ids": list(ids), "queue": queue.id, "overlap": overlap, "priority": UNKNOWN, "again": again}
    return len(db.execute(_FILL, values).all())


def takes(db: Session, project: Project, queue: AnnotationQueue, after: int, before: int) -> Sequence[int]:
    """At most ``CHUNK`` completions with ``after`` < id <= ``before`` that the queue's filter fits, by id."""
    state = queue.filter.get("state", "")
    low = state == LOW_COVERAGE
    wanted = Filter.from_dict(queue.filter | ({"state": "unrated"} if low else {}))
    query = filtered_ids(project, wanted)
    if low:
        thin = select(Prompt.id).where(Prompt.category.in_(thin_categories(db, project)))
        query = query.where(Completion.prompt_id.in_(thin.where(Prompt.project_id == project.id)))
    query = query.where(Completion.id > after, Completion.id <= before).order_by(Completion.id).limit(CHUNK)
    return db.scalars(query).all()


def enter(db: Session, queue: AnnotationQueue, ids: Sequence[int]) -> int:
    """Slots for completions that were never in the queue; returns how many."""
    return _slots(db, queue, ids, queue.overlap, again=False)


def newest_completion(db: Session, project: Project) -> int:
    return db.scalar(select(func.max(Completion.id)).where(Completion.project_id == project.id)) or 0


def newest_rating(db: Session, project: Project) -> int:
    return db.scalar(select(func.max(Rating.id)).where(Rating.project_id == project.id)) or 0
