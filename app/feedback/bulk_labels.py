"""One verdict on everything that a filter finds: counted before, written in batches, named by one row, taken back in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.feedback.filters import Filter, filtered_ids
from app.feedback.queue import SOURCE, rater_of
from app.feedback.ratings import Verdict, store_verdicts
from app.models import BulkLabel, Completion, Project, Rating, User

LIMIT = 10_000
BATCH = 1000
SAMPLE = 5
MAX_REASON = 500

# One open slot of each queue is done by it, so that nobody is asked for a verdict that is there.
_CLOSE = text(
    """
    WITH chosen AS (
        SELECT DISTINCT ON (s.queue_id, s.completion_id) s.id, r.id AS rating_id
        FROM ratings r JOIN annotation_slots s ON s.completion_id = r.completion_id
        WHERE r.bulk_id = :bulk AND r.is_current AND s.done_at IS NULL AND s.gold_id IS NULL
          AND (s.claimed_until IS NULL OR s.claimed_until <= now())
          AND NOT EXISTS (SELECT 1 FROM annotation_slots o WHERE o.queue_id = s.queue_id
                          AND o.completion_id = s.completion_id AND o.done_by = :user)
        ORDER BY s.queue_id, s.completion_id, s.number
    ), locked AS (
        SELECT s.id, c.rating_id FROM annotation_slots s JOIN chosen c ON c.id = s.id
        WHERE s.done_at IS NULL ORDER BY s.id FOR UPDATE OF s SKIP LOCKED
    )
    UPDATE annotation_slots s
    SET done_at = :now, done_by = :user, rating_id = l.rating_id, claimed_by = NULL, claimed_until = NULL
    FROM locked l WHERE s.id = l.id
    """
)
_REOPEN = text(
    """
    UPDATE annotation_slots s SET done_at = NULL, done_by = NULL, rating_id = NULL
    FROM ratings r WHERE r.bulk_id = :bulk AND r.is_current AND s.rating_id = r.id
    """
)
# A correction that such a rating carries is its rater's again too: the thumb up on the edit had gone with the rating.
_RESTORE_EDITS = text(
    """
    UPDATE ratings SET is_current = true, retracted_at = NULL WHERE id IN (
        SELECT max(e.id) FROM ratings r JOIN ratings e ON e.project_id = r.project_id AND e.completion_id = r.correction_id
            AND e.source = r.source AND e.rater = r.rater
        WHERE r.id = ANY(:ids) GROUP BY r.id HAVING bool_and(NOT e.is_current)
    ) AND metadata ? 'correction_of'
    """
)
_TAKE_BACK = text(
    """
    UPDATE ratings SET is_current = false, retracted_at = :now
    WHERE bulk_id = :bulk AND is_current RETURNING id, completion_id
    """
)
# The rating that it replaced, unless that one had been taken back itself. Its feedback's id may have gone to another since.
_RESTORE = text(
    """
    UPDATE ratings SET is_current = true WHERE id IN (
        SELECT f.id FROM unnest(CAST(:ids AS bigint[])) AS taken(id) JOIN ratings r ON r.id = taken.id
        CROSS JOIN LATERAL (
            SELECT o.id, o.retracted_at FROM ratings o
            WHERE o.project_id = r.project_id AND o.completion_id = r.completion_id AND o.source = r.source
              AND o.rater = r.rater AND o.id < r.id
            ORDER BY o.id DESC LIMIT 1
        ) f
        WHERE f.retracted_at IS NULL
    ) RETURNING id
    """
)


@dataclass(frozen=True, slots=True)
class Preview:
    count: int
    """At most ``LIMIT + 1``."""
    through: int
    """The newest completion that was counted: what comes later is not labelled."""
    sample: Sequence[Completion]

    @property
    def too_many(self) -> bool:
        return self.count > LIMIT


def preview(db: Session, project: Project, wanted: Filter) -> Preview:
    found = filtered_ids(project, wanted).limit(LIMIT + 1).subquery()
    count, through = db.execute(select(func.count(), func.coalesce(func.max(found.c.id), 0))).one()
    some = filtered_ids(project, wanted).order_by(Completion.id.desc()).limit(SAMPLE)
    sample = db.scalars(select(Completion).where(Completion.id.in_(some)).order_by(Completion.id.desc())).all()
    return Preview(count, through, sample)


def apply(
    db: Session, project: Project, user: User, wanted: Filter, *, value: bool, through: int, reason: str = ""
) -> BulkLabel | None:
    """The person's verdict on all that fit up to completion ``through``; None where it changes nothing.

    Raises InvalidError where these are more than ``LIMIT``.
    """
    if len(reason) > MAX_REASON or "\x00" in reason:
        raise InvalidError("The reason is too long.", fields={"reason": f"at most {MAX_REASON} characters"})
    query = filtered_ids(project, wanted).where(Completion.id <= through).order_by(Completion.id).limit(LIMIT + 1)
    ids = db.scalars(query).all()
    if len(ids) > LIMIT:
        raise InvalidError("These are too many at once.", fields={"value": f"at most {LIMIT:,}: narrow the filter"})
    bulk_id = db.scalar(
        insert(BulkLabel)
        .values(project_id=project.id, user_id=user.id, filter=wanted.to_dict(), value=value, reason=reason.strip())
        .returning(BulkLabel.id)
    )
    bulk = db.get_one(BulkLabel, bulk_id)
    for first in range(0, len(ids), BATCH):
        bulk.num_labelled += _label(db, project, user, bulk, ids[first : first + BATCH])
    if not bulk.num_labelled:
        db.delete(bulk)
        db.flush()
        return None
    db.execute(_CLOSE, {"bulk": bulk.id, "user": user.id, "now": utcnow()})
    db.flush()
    return bulk


def _label(db: Session, project: Project, user: User, bulk: BulkLabel, ids: Sequence[int]) -> int:
    rater = rater_of(user)
    same = select(Rating.completion_id).where(
        Rating.project_id == project.id,
        Rating.completion_id.in_(ids),
        Rating.source == SOURCE,
        Rating.rater == rater,
        Rating.is_current,
        Rating.value == bulk.value,
    )
    had = set(db.scalars(same))
    verdicts = [Verdict(key, rater, bulk.value, None, bulk.reason or None) for key in ids if key not in had]
    stored = store_verdicts(db, project.id, SOURCE, verdicts)
    new = [each.rating_id for each in stored if each.outcome in ("created", "updated")]
    named = text("UPDATE ratings SET bulk_id = :bulk WHERE id = ANY(:ids)")
    db.execute(named, {"bulk": bulk.id, "ids": new})
    return len(new)


def get(db: Session, project: Project, bulk_id: int) -> BulkLabel:
    """Raises NotFoundError, also for another project's."""
    query = select(BulkLabel).where(BulkLabel.project_id == project.id, BulkLabel.id == bulk_id).with_for_update()
    found = db.scalar(query)
    if found is None:
        raise NotFoundError("There is no such bulk label in this project.")
    return found


def recent(db: Session, project: Project, limit: int = 20) -> Sequence[BulkLabel]:
    query = select(BulkLabel).where(BulkLabel.project_id == project.id)
    return db.scalars(query.order_by(BulkLabel.id.desc()).limit(limit)).all()


def undo(db: Session, project: Project, bulk_id: int) -> int:
    """Takes back what is still current of it; former verdicts of the same person count again. Returns how many went.

    Raises ConflictError where it was undone before.
    """
    bulk = get(db, project, bulk_id)
    if bulk.undone_at is not None:
        raise ConflictError("This bulk label was taken back before.")
    lock = text(
        "SELECT id FROM completions WHERE id IN (SELECT completion_id FROM ratings WHERE bulk_id = :bulk AND is_current)"
        " ORDER BY id FOR NO KEY UPDATE"
    )
    db.execute(lock, {"bulk": bulk.id})
    db.execute(_REOPEN, {"bulk": bulk.id})
    taken = db.execute(_TAKE_BACK, {"bulk": bulk.id, "now": utcnow()}).all()
    restored = db.scalars(_RESTORE, {"ids": [row.id for row in taken]}).all()
    db.execute(_RESTORE_EDITS, {"ids": list(restored)})
    bulk.undone_at = utcnow()
    db.flush()
    return len(taken)
