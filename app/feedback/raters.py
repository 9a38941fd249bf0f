"""Figures of raters: how much they rate, how they differ from their peers, how they do on gold items, how fast they are.

Which raters a page shows is settled by an index alone (how many ratings each has); everything else is computed for these few.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core.errors import InvalidError
from app.core.pagination import Page
from app.feedback.raters_agreement import Z95
from app.feedback.raters_names import rater_names, user_id_of
from app.models import Project

PER_PAGE = 25
LAST = 2000
"""Newest verdicts of a rater that runs and times are read from."""
CATEGORY_BOUND = 200_000
"""Newest completions with votes from which the usual up-rate of a category is taken."""
MIN_SHARED = 30
"""Ratings on completions that others judged too, from which peers are taken on these, else by category."""

_PAGE = text(
    """
    SELECT source, rater, count(*) AS n FROM ratings
    WHERE project_id = :project AND is_current AND source <> 'adjudication'
    GROUP BY source, rater
    HAVING CAST(:before AS bigint) IS NULL OR (count(*), source, rater) < (CAST(:before AS bigint), :source, :rater)
    ORDER BY n DESC, source DESC, rater DESC LIMIT :limit
    """
)
_FIGURES = text(
    """
    WITH shown AS (SELECT * FROM unnest(CAST(:sources AS text[]), CAST(:raters AS text[])) AS s(source, rater))
    SELECT r.source, r.rater, p.category, count(*) AS n, count(*) FILTER (WHERE r.value) AS ups,
           count(*) FILTER (WHERE o.others > 0) AS shared,
           coalesce(sum(r.value::int - o.share) FILTER (WHERE o.others > 0), 0) AS difference,
           coalesce(sum((r.value::int - o.share) ^ 2) FILTER (WHERE o.others > 0), 0) AS squares,
           coalesce(sum(CASE WHEN r.value THEN o.share ELSE 1 - o.share END) FILTER (WHERE o.others > 0), 0) AS agreed,
           coalesce(sum((CASE WHEN r.value THEN o.share ELSE 1 - o.share END) ^ 2) FILTER (WHERE o.others > 0), 0) AS agreed2
    FROM shown s
    JOIN ratings r ON r.project_id = :project AND r.source = s.source AND r.rater = s.rater AND r.is_current
    JOIN completion_votes v ON v.completion_id = r.completion_id
    JOIN completions c ON c.id = r.completion_id
    JOIN prompts p ON p.id = c.prompt_id
    CROSS JOIN LATERAL (
        SELECT v.ups + v.downs - 1 AS others, (v.ups - r.value::int)::float8 / nullif(v.ups + v.downs - 1, 0) AS share
    ) o
    GROUP BY r.source, r.rater, p.category
    """
)
_CATEGORIES = text(
    """
    SELECT p.category, sum(v.ups), sum(v.ups + v.downs) FROM (
        SELECT completion_id, ups, downs FROM completion_votes WHERE project_id = :project AND state IN (1, 2, 3)
        ORDER BY completion_id DESC LIMIT :bound
    ) v JOIN completions c ON c.id = v.completion_id JOIN prompts p ON p.id = c.prompt_id
    GROUP BY p.category
    """
)
_RUNS = text(
    """
    SELECT s.source, s.rater, t.verdicts
    FROM unnest(CAST(:sources AS text[]), CAST(:raters AS text[])) AS s(source, rater)
    CROSS JOIN LATERAL (
        SELECT string_agg(value::int::text, '' ORDER BY id) AS verdicts FROM (
            SELECT id, value FROM ratings
            WHERE project_id = :project AND source = s.source AND rater = s.rater AND is_current
            ORDER BY id DESC LIMIT :last
        ) newest
    ) t
    """
)
_GOLD = text(
    """
    SELECT s.done_by, count(*), count(*) FILTER (WHERE s.gold_answer = g.value)
    FROM gold_items g JOIN annotation_slots s ON s.gold_id = g.id
    WHERE g.project_id = :project AND s.gold_answer IS NOT NULL AND s.done_by = ANY(:users)
    GROUP BY s.done_by
    """
)
_TIMES = text(
    """
    SELECT d.done_by, array_agg(d.took_ms) FROM annotation_queues q
    CROSS JOIN (SELECT DISTINCT user_id FROM memberships WHERE project_id = :project
                UNION SELECT unnest(CAST(:users AS int[]))) u
    CROSS JOIN LATERAL (
        SELECT s.done_by, s.took_ms FROM annotation_slots s
        WHERE s.queue_id = q.id AND s.done_by = u.user_id AND s.done_at IS NOT NULL AND s.took_ms IS NOT NULL
          AND s.skip_reason IS NULL
        ORDER BY s.done_at DESC LIMIT :last
    ) d
    WHERE q.project_id = :project GROUP BY d.done_by
    """
)
_SETTINGS = text(
    """
    SELECT source, rater, weight, reason FROM rater_settings WHERE project_id = :project
      AND (source, rater) IN (SELECT * FROM unnest(CAST(:sources AS text[]), CAST(:raters AS text[])))
    """
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A share or a difference with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(slots=True)
class RaterFigures:
    source: str
    rater: str
    name: str
    ratings: int
    ups: int
    up_rate: Figure
    against_peers: Figure | None
    """Own up-rate minus that of peers: on the same completions, else in the same categories."""
    peers_on: str
    """items or categories."""
    agreement: Figure | None
    """Mean share of the others on the same completion who said the same."""
    expected: float | None
    """The up-rate of peers."""
    verdicts: str = ""
    """The newest verdicts in order: 1 up, 0 down."""
    gold: Figure | None = None
    times_ms: list[int] = field(default_factory=list)
    peer_times_ms: list[int] = field(default_factory=list)
    weight: float = 1.0
    reason: str = ""

    @property
    def seconds(self) -> float | None:
        """Median time of a verdict."""
        return _median(self.times_ms) / 1000 if self.times_ms else None

    @property
    def per_hour(self) -> float | None:
        return 3600 / self.seconds if self.seconds else None


def list_raters(db: Session, project: Project, cursor: str = "") -> Page[RaterFigures]:
    """Those with most ratings first. Raises InvalidError for a page link that is none of ours."""
    before, source, rater = read_cursor(cursor)
    values = {"project": project.id, "before": before, "source": source, "rater": rater, "limit": PER_PAGE + 1}
    found = db.execute(_PAGE, values).all()
    shown = found[:PER_PAGE]
    further = None
    if len(found) > PER_PAGE:
        further = write_cursor(shown[-1].n, shown[-1].source, shown[-1].rater)
    return Page(figures(db, project, [(row.source, row.rater) for row in shown]), further)


def figures(db: Session, project: Project, who: Sequence[tuple[str, str]]) -> list[RaterFigures]:
    """Of these raters, in this order; one without a current rating is left out."""
    if not who:
        return []
    values: dict[str, Any] = {
        "project": project.id,
        "sources": [source for source, _ in who],
        "raters": [rater for _, rater in who],
        "users": sorted({number for _, rater in who if (number := user_id_of(rater)) is not None}),
        "bound": CATEGORY_BOUND,
        "last": LAST,
    }
    rows: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in db.execute(_FIGURES, values):
        rows[row.source, row.rater].append(row)
    names = rater_names(db, values["raters"])
    usual = {category: (int(ups), int(n)) for category, ups, n in db.execute(_CATEGORIES, values)}
    found = {key: _figures(key, rows[key], usual, names.get(key[1], key[1])) for key in who if key in rows}
    for row in db.execute(_RUNS, values):
        if (row.source, row.rater) in found:
            found[row.source, row.rater].verdicts = row.verdicts or ""
    for row in db.execute(_SETTINGS, values):
        if (row.source, row.rater) in found:
            found[row.source, row.rater].weight = row.weight
            found[row.source, row.rater].reason = row.reason
    _add_annotators(db, values, found)
    return list(found.values())


def _add_annotators(db: Session, values: dict[str, Any], found: dict[tuple[str, str], RaterFigures]) -> None:
    """Gold items and times are of the annotation page only."""
    if not values["users"]:
        return
    times = {user_id: list(took) for user_id, took in db.execute(_TIMES, values)}
    gold = {user_id: share_of(right, n) for user_id, n, right in db.execute(_GOLD, values)}
    for (source, rater), item in found.items():
        user_id = user_id_of(rater)
        if source == "annotation" and user_id is not None:
            item.gold = gold.get(user_id)
            item.times_ms = times.get(user_id, [])
            item.peer_times_ms = [took for other, of in times.items() if other != user_id for took in of]


def _figures(
    key: tuple[str, str], rows: list[Any], usual: dict[str | None, tuple[int, int]], name: str
) -> RaterFigures:
    n, ups = sum(row.n for row in rows), sum(row.ups for row in rows)
    shared = sum(row.shared for row in rows)
    own = share_of(ups, n)
    expected: float | None
    against: Figure | None
    if shared >= MIN_SHARED:
        against = _mean(sum(row.difference for row in rows), sum(row.squares for row in rows), shared, (-1.0, 1.0))
        expected, peers_on = peers_rate(rows, against), "items"
    else:
        expected, peers_on = _expected(rows, usual), "categories"
        against = None if expected is None else Figure(own.value - expected, own.low - expected, own.high - expected, n)
    agreement = None
    if shared >= 2:
        agreement = _mean(sum(row.agreed for row in rows), sum(row.agreed2 for row in rows), shared, (0.0, 1.0))
    return RaterFigures(key[0], key[1], name, n, ups, own, against, peers_on, agreement, expected)


def peers_rate(rows: list[Any], against: Figure) -> float:
    """The peers' mean up-rate on the completions in common, kept inside what a share can be."""
    ups: float = sum(row.ups for row in rows) / sum(row.n for row in rows)
    return min(max(ups - against.value, 0.0), 1.0)


def _expected(rows: list[Any], usual: dict[str | None, tuple[int, int]]) -> float | None:
    """Up-rate of the others in the same categories, weighed as this rater's ratings are; None where there are no others."""
    known, total = 0, 0.0
    for row in rows:
        ups, n = usual.get(row.category, (0, 0))
        others = n - row.n
        if others > 0:
            known += row.n
            total += row.n * min(max((ups - row.ups) / others, 0.0), 1.0)
    return total / known if known else None


def _mean(total: float, squares: float, n: int, within: tuple[float, float]) -> Figure:
    mean = total / n
    variance = max(squares / n - mean**2, 0.0) * n / max(n - 1, 1)
    half = Z95 * (variance / n) ** 0.5
    return Figure(mean, max(mean - half, within[0]), min(mean + half, within[1]), n)


def share_of(count: int, n: int) -> Figure:
    """Wilson's interval."""
    if not n:
        return Figure(0.0, 0.0, 1.0, 0)
    share, z2 = count / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * (share * (1 - share) / n + z2 / (4 * n * n)) ** 0.5
    return Figure(share, max(middle - half, 0.0), min(middle + half, 1.0), n)


def _median(values: list[int]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return float(ordered[half]) if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def write_cursor(n: int, source: str, rater: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([n, source, rater]).encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[int | None, str, str]:
    if not cursor:
        return None, "", ""
    try:
        n, source, rater = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not (isinstance(n, int) and isinstance(source, str) and isinstance(rater, str)) or abs(n) >= 2**62:
            raise ValueError(cursor)
        if "\x00" in source + rater:
            raise ValueError(cursor)
        (source + rater).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidError(
            "The page link is not valid.", fields={"cursor": "start again from the first page"}
        ) from error
    return n, source, rater
