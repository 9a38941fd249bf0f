"""Which categories want labels most, and what that makes of the order of a queue.

The n-th waiting completion of a category stands where the category would be once those before it were labelled:
``floor(8 * log2(1 + have + n))`` with ``have`` = twice the smaller of its desirable and undesirable ratings. So categories
with few or one-sided labels come first, the thin ones take turns, and the order hardly changes while people work through it.
Categories in which the project's newest evaluation found a collapse count a quarter of what they have.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.models import (
    AnnotationQueue,
    Completion,
    CompletionVotes,
    Evaluation,
    EvaluationAlarm,
    Project,
    Prompt,
)

UNKNOWN = 64
"""Priority of a slot until it is computed: as of a category with 255 labels, so that thin ones stay before it."""
LOW = 10
"""Ratings of the scarcer class below which a category's coverage is low."""
ALARMED = ("alarm", "critical")
CHUNK = 2000

_ORDER = text(
    """
    WITH have AS (
        SELECT coalesce(p.category, '') AS category, 2 * least(sum(v.ups), sum(v.downs)) AS labels
        FROM completion_votes v JOIN completions c ON c.id = v.completion_id JOIN prompts p ON p.id = c.prompt_id
        WHERE v.project_id = :project AND v.state IN (1, 2, 3)
        GROUP BY 1
    ), waiting AS (
        SELECT s.id, s.priority, coalesce(p.category, '') AS category,
               dense_rank() OVER (PARTITION BY coalesce(p.category, '') ORDER BY s.completion_id) - 1 AS place
        FROM annotation_slots s
        JOIN completions c ON c.id = s.completion_id JOIN prompts p ON p.id = c.prompt_id
        WHERE s.queue_id = :queue AND s.done_at IS NULL AND s.gold_id IS NULL
    ), wanted AS (
        SELECT w.id, w.priority AS old, floor(8 * log(2, 1 + w.place
               + coalesce(h.labels, 0) / CASE WHEN w.category = ANY(:alarmed) THEN 4 ELSE 1 END))::int AS new
        FROM waiting w LEFT JOIN have h ON h.category = w.category
    )
    SELECT id, new FROM wanted WHERE old <> new ORDER BY id
    """
)
_WRITE = text(
    """
    UPDATE annotation_slots s SET priority = n.priority
    FROM (
        SELECT s.id, w.priority
        FROM unnest(CAST(:ids AS bigint[]), CAST(:priorities AS int[])) AS w(id, priority)
        JOIN annotation_slots s ON s.id = w.id
        WHERE s.done_at IS NULL AND (s.claimed_until IS NULL OR s.claimed_until <= now())
        ORDER BY s.id FOR UPDATE OF s SKIP LOCKED
    ) n
    WHERE s.id = n.id
    """
)


def alarmed_categories(db: Session, project: Project) -> Sequence[str]:
    """Where the newest evaluation found a collapse that no lead has dismissed."""
    newest = select(func.max(Evaluation.id)).where(Evaluation.project_id == project.id).scalar_subquery()
    query = select(EvaluationAlarm.subject).where(
        EvaluationAlarm.project_id == project.id,
        EvaluationAlarm.evaluation_id == newest,
        EvaluationAlarm.level.in_(ALARMED),
        EvaluationAlarm.resolution != "dismissed",
    )
    return list(db.scalars(query))


def thin_categories(db: Session, project: Project) -> Sequence[str]:
    """Those with fewer than ``LOW`` desirable or fewer than ``LOW`` undesirable ratings."""
    ups, downs = func.sum(CompletionVotes.ups), func.sum(CompletionVotes.downs)
    query = (
        select(Prompt.category)
        .join(Completion, Completion.prompt_id == Prompt.id)
        .join(CompletionVotes, CompletionVotes.completion_id == Completion.id)
        .where(Completion.project_id == project.id, Prompt.category.is_not(None))
        .group_by(Prompt.category)
        .having(func.least(ups, downs) < LOW)
    )
    return [name for name in db.scalars(query) if name is not None]


def new_order(db: Session, project: Project, queue: AnnotationQueue) -> list[tuple[int, int]]:
    """(slot, priority) of the open slots whose priority is no longer what it should be."""
    values = {"project": project.id, "queue": queue.id, "alarmed": list(alarmed_categories(db, project))}
    return [(row.id, row.new) for row in db.execute(_ORDER, values)]


def write_order(db: Session, changed: Sequence[tuple[int, int]]) -> None:
    """Of at most ``CHUNK`` slots: their rows are locked until the commit, and what is locked cannot be claimed."""
    values = {"ids": [slot for slot, _ in changed], "priorities": [priority for _, priority in changed]}
    db.execute(_WRITE, values)
