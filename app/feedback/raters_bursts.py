"""Brigading: a burst of one-sided ratings by raters who had never rated before.

Looked at are the hours of the last DAYS days, source by source. An hour is a burst when all of this holds:

1. at least LEAST ratings, and Poisson with the source's usual hourly number (the median of its other busy hours, at least 1)
   gives so many with a probability below ALARM;
2. one-sided: with the source's usual up-rate, Binomial gives so many of the larger side with a probability below ALARM,
   and that side has at least ONE_SIDED of them;
3. at least NEW of these ratings are by raters whose first rating of the project lies in this hour.

Under usual hours with independent raters, 1 and 2 alone come up falsely less than once in a million hours. No address of any
person is kept or looked at: what shows is the pattern.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from math import exp, lgamma, log
from statistics import median

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.models import Project

DAYS = 7
LEAST = 20
ONE_SIDED = 0.9
NEW = 0.8
ALARM = 1e-6

_HOURS = text(
    """
    SELECT source, date_trunc('hour', created_at, 'UTC') AS hour, count(*) AS n, count(*) FILTER (WHERE value) AS ups
    FROM ratings
    WHERE project_id = :project AND is_current AND source NOT IN ('adjudication', 'import')
      AND created_at > now() - make_interval(days => :days)
    GROUP BY 1, 2
    """
)
_NEWCOMERS = text(
    """
    SELECT DISTINCT r.rater FROM ratings r
    WHERE r.project_id = :project AND r.source = :source AND r.is_current AND r.value = :value
      AND r.created_at >= :hour AND r.created_at < CAST(:hour AS timestamptz) + interval '1 hour'
      AND NOT EXISTS (
          SELECT 1 FROM ratings e WHERE e.project_id = r.project_id AND e.source = r.source AND e.rater = r.rater
            AND e.id < r.id AND e.created_at < :hour)
    """
)


@dataclass(frozen=True, slots=True)
class Burst:
    source: str
    hour: datetime
    ratings: int
    value: bool
    """The larger side."""
    same: int
    """Ratings of that side."""
    newcomers: frozenset[str]


def poisson_tail(count: int, mean: float) -> float:
    """P(X >= count)."""
    if count <= mean:
        return 1.0
    terms = (exp(k * log(mean) - mean - lgamma(k + 1)) for k in range(count, count + 400))
    return min(sum(terms), 1.0)


def binomial_tail(count: int, n: int, share: float) -> float:
    """P(X >= count) of n with probability ``share``."""
    share = min(max(share, 0.01), 0.99)
    return min(
        sum(
            exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(share) + (n - k) * log(1 - share))
            for k in range(count, n + 1)
        ),
        1.0,
    )


def bursts(db: Session, project: Project) -> list[Burst]:
    """Newest first, at most ten."""
    by_source: dict[str, list[tuple[datetime, int, int]]] = defaultdict(list)
    for source, hour, n, ups in db.execute(_HOURS, {"project": project.id, "days": DAYS}):
        by_source[source].append((hour, n, ups))
    suspects = [
        (hour, source, n, value, same)
        for source, hours in by_source.items()
        for hour, n, ups in hours
        for value, same in [(True, ups) if 2 * ups >= n else (False, n - ups)]
        if _stands_out(hours, hour, n, value=value, same=same)
    ]
    found = []
    for hour, source, n, value, same in sorted(suspects, reverse=True)[:10]:
        values = {"project": project.id, "source": source, "value": value, "hour": hour}
        newcomers = frozenset(db.scalars(_NEWCOMERS, values))
        if len(newcomers) >= NEW * same:
            found.append(Burst(source, hour, n, value, same, newcomers))
    return found


def _stands_out(hours: list[tuple[datetime, int, int]], hour: datetime, n: int, *, value: bool, same: int) -> bool:
    if n < LEAST or same < ONE_SIDED * n:
        return False
    others = [(count, ups) for at, count, ups in hours if at != hour]
    usual = max(median(count for count, _ in others), 1.0) if others else 1.0
    if poisson_tail(n, usual) >= ALARM:
        return False
    total = sum(count for count, _ in others)
    up_rate = (sum(ups for _, ups in others) + 1) / (total + 2)
    return binomial_tail(same, n, up_rate if value else 1 - up_rate) < ALARM
