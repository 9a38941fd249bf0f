"""Annotation queues and what lies in them: slots, one per wanted verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.core.errors import InvalidError, NotFoundError
from app.models import AnnotationQueue, AnnotationSlot, Project

DEFAULT_QUEUE = "main"
MAX_OVERLAP = 10

_FILL = text(
    """
    WITH wanted AS (
        SELECT c.id,
               count(s.id) FILTER (WHERE s.done_at IS NULL OR s.rating_id IS NOT NULL) AS has,
               coalesce(max(s.number) + 1, 0) AS next_number
        FROM completions c
        LEFT JOIN annotation_slots s ON s.completion_id = c.id AND s.queue_id = :queue
        WHERE c.project_id = :project
          AND (NOT :unrated OR NOT EXISTS (SELECT 1 FROM ratings r WHERE r.completion_id = c.id AND r.is_current))
        GROUP BY c.id
    )
    INSERT INTO annotation_slots (queue_id, completion_id, number)
    SELECT :queue, w.id, w.next_number + g
    FROM wanted w CROSS JOIN LATERAL generate_series(0, CAST(:overlap AS bigint) - w.has - 1) g
    WHERE w.has < :overlap
    ON CONFLICT DO NOTHING
    RETURNING id
    """
)


@dataclass(frozen=True, slots=True)
class Progress:
    done: int
    """Verdicts given, skips included."""
    total: int

    @property
    def left(self) -> int:
        return self.total - self.done


def default_queue(db: Session, project: Project) -> AnnotationQueue:
    """The project's first queue, made where there is none."""
    values = {"project_id": project.id, "slug": DEFAULT_QUEUE, "name": "Main"}
    db.execute(upsert(AnnotationQueue).values(values).on_conflict_do_nothing())
    return get_queue(db, project, DEFAULT_QUEUE)


def get_queue(db: Session, project: Project, slug: str) -> AnnotationQueue:
    """Raises NotFoundError, also for another project's queue."""
    query = select(AnnotationQueue).where(AnnotationQueue.project_id == project.id, AnnotationQueue.slug == slug)
    queue = db.scalar(query)
    if queue is None:
        raise NotFoundError("There is no such queue in this project.")
    return queue


def list_queues(db: Session, project: Project) -> Sequence[AnnotationQueue]:
    query = select(AnnotationQueue).where(AnnotationQueue.project_id == project.id)
    return db.scalars(query.order_by(AnnotationQueue.id)).all()


def queue_completions(db: Session, project: Project, completion_ids: Sequence[int]) -> None:
    """Slots for new completions without a verdict, in the project's default queue."""
    queue = default_queue(db, project)
    rows = [
        {"queue_id": queue.id, "completion_id": completion_id, "number": number}
        for completion_id in completion_ids
        for number in range(queue.overlap)
    ]
    db.execute(insert(AnnotationSlot), rows)


def queue_unlabelled(db: Session, project: Project, queue: AnnotationQueue) -> int:
    """Wants a verdict on every completion that has none, skipped ones again. Returns how many slots were made."""
    return _fill(db, project, queue, overlap=queue.overlap, unrated=True)


def queue_everything(db: Session, project: Project, queue: AnnotationQueue, overlap: int) -> int:
    """Wants ``overlap`` annotators' verdicts on every completion, and on those that come later."""
    if not 1 <= overlap <= MAX_OVERLAP:
        raise InvalidError("The number does not fit.", fields={"overlap": f"a number from 1 to {MAX_OVERLAP}"})
    queue.overlap = overlap
    db.flush()
    return _fill(db, project, queue, overlap=overlap, unrated=False)


def _fill(db: Session, project: Project, queue: AnnotationQueue, *, overlap: int, unrated: bool) -> int:
    values = {"queue": queue.id, "project": project.id, "overlap": overlap, "unrated": unrated}
    return len(db.execute(_FILL, values).all())


def progress(db: Session, queue: AnnotationQueue) -> Progress:
    query = select(func.count(AnnotationSlot.done_at), func.count()).where(AnnotationSlot.queue_id == queue.id)
    done, total = db.execute(query).one()
    return Progress(done, total)
