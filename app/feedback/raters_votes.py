"""Votes counted for agreement: how many completions have so many ups and so many downs, and what two raters said together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.feedback.raters_agreement import Agreement, cohen

_PROJECT = text(
    """
    SELECT v.ups - coalesce(a.ups, 0), v.downs - coalesce(a.downs, 0), count(*)
    FROM completion_votes v
    LEFT JOIN (
        SELECT completion_id, count(*) FILTER (WHERE value) AS ups, count(*) FILTER (WHERE NOT value) AS downs
        FROM ratings WHERE project_id = :project AND source = 'adjudication' AND is_current GROUP BY completion_id
    ) a USING (completion_id)
    WHERE v.project_id = :project AND v.state <> 0
    GROUP BY 1, 2
    """
)
_QUEUE = text(
    """
    SELECT ups, downs, count(*) FROM (
        SELECT s.completion_id, count(*) FILTER (WHERE r.value) AS ups, count(*) FILTER (WHERE NOT r.value) AS downs
        FROM annotation_slots s JOIN ratings r ON r.id = s.rating_id AND r.is_current
        WHERE s.queue_id = :queue AND r.project_id = :project
        GROUP BY s.completion_id
    ) per_completion GROUP BY ups, downs
    """
)
_PAIRS = text(
    """
    SELECT a.rater, b.rater, count(*) FILTER (WHERE a.value AND b.value), count(*) FILTER (WHERE a.value AND NOT b.value),
           count(*) FILTER (WHERE NOT a.value AND b.value), count(*) FILTER (WHERE NOT a.value AND NOT b.value)
    FROM ratings a JOIN ratings b ON b.completion_id = a.completion_id AND b.rater > a.rater
    WHERE a.project_id = :project AND b.project_id = :project AND a.is_current AND b.is_current
      AND a.source = 'annotation' AND b.source = 'annotation'
      AND a.rater = ANY(:raters) AND b.rater = ANY(:raters)
    GROUP BY a.rater, b.rater HAVING count(*) >= :least ORDER BY count(*) DESC LIMIT :limit
    """
)
MIN_PAIR = 20
"""Fewer completions in common say nothing of two raters."""


@dataclass(frozen=True, slots=True)
class RaterPair:
    first: str
    second: str
    kappa: Agreement


def vote_patterns(db: Session, project_id: int, queue_id: int | None = None) -> list[tuple[int, int, int]]:
    """(ups, downs, completions) of the project, or of what one queue asked for. A lead's adjudication is no vote."""
    if queue_id is None:
        rows = db.execute(_PROJECT, {"project": project_id})
    else:
        rows = db.execute(_QUEUE, {"project": project_id, "queue": queue_id})
    return [(int(ups), int(downs), int(count)) for ups, downs, count in rows]


def rater_pairs(db: Session, project_id: int, raters: Sequence[str], limit: int = 50) -> list[RaterPair]:
    """Cohen's kappa of annotators with MIN_PAIR or more completions in common, those with most first."""
    if len(raters) < 2:
        return []
    values = {"project": project_id, "raters": list(raters), "least": MIN_PAIR, "limit": limit}
    found = []
    for first, second, both_up, up_down, down_up, both_down in db.execute(_PAIRS, values):
        kappa = cohen([[both_up, up_down], [down_up, both_down]])
        if kappa is not None:
            found.append(RaterPair(first, second, kappa))
    return found
