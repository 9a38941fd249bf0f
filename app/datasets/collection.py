"""How the data was collected: what share of the answers got a thumb, how many people judge a category, what a thumb costs,
what personal data was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.errors import InvalidError
from app.models import Project, User

COST_KEY = "annotation_cost"
LOOKED_AT = 100_000
"""Newest completions whose personal data and newest verdicts whose time are counted: enough to know, quick at any size."""

_RESPONSES = text(
    """
    SELECT coalesce(c.model, '') AS model, count(*) AS received, count(*) FILTER (WHERE v.state <> 0) AS rated,
           coalesce(sum(v.ups + v.downs), 0) AS ratings
    FROM completions c JOIN completion_votes v ON v.completion_id = c.id
    WHERE c.project_id = :project
    GROUP BY 1 ORDER BY received DESC
    """
)
_COVERAGE = text(
    """
    SELECT raters, count(*) AS categories FROM (
        SELECT category, count(*) AS raters FROM (
            SELECT DISTINCT p.category, r.source, r.rater
            FROM ratings r JOIN completions c ON c.id = r.completion_id JOIN prompts p ON p.id = c.prompt_id
            WHERE r.project_id = :project AND r.is_current AND p.category IS NOT NULL
        ) d GROUP BY category
    ) n GROUP BY raters ORDER BY raters
    """
)
_SECONDS = text(
    """
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY took_ms), count(*) FROM (
        SELECT s.took_ms FROM annotation_slots s JOIN annotation_queues q ON q.id = s.queue_id
        WHERE q.project_id = :project AND s.took_ms IS NOT NULL AND s.rating_id IS NOT NULL
        LIMIT :most
    ) t
    """
)
_PII = text(
    """
    SELECT e.key, count(*), sum(e.value::text::numeric) FROM (
        SELECT pii FROM completions WHERE project_id = :project ORDER BY id DESC LIMIT :most
    ) c CROSS JOIN LATERAL jsonb_each(c.pii) e
    WHERE jsonb_typeof(c.pii) = 'object' AND jsonb_typeof(e.value) = 'number'
    GROUP BY e.key ORDER BY 2 DESC, 1
    """
)
_PII_LOOKED = text(
    """
    SELECT count(pii) FROM (SELECT pii FROM completions WHERE project_id = :project ORDER BY id DESC LIMIT :most) c
    """
)


@dataclass(frozen=True, slots=True)
class Response:
    """One model's answers, and how many of them got a thumb."""

    model: str
    received: int
    rated: int
    ratings: int

    @property
    def share(self) -> float:
        return self.rated / self.received if self.received else 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    seconds: float | None
    """Median time that an annotator takes for a verdict; None where none was measured."""
    verdicts: int
    per_hour: float | None
    currency: str

    @property
    def per_thumb(self) -> float | None:
        return None if self.seconds is None or self.per_hour is None else self.seconds * self.per_hour / 3600


@dataclass(frozen=True, slots=True)
class PiiFinding:
    kind: str
    completions: int
    mentions: int


@dataclass(frozen=True, slots=True)
class Collection:
    responses: list[Response]
    raters_per_category: dict[int, int]
    """Number of raters -> categories with so many."""
    cost: Cost
    pii: list[PiiFinding]
    pii_looked_at: int
    """Of the newest completions, how many were looked through."""

    @property
    def received(self) -> int:
        return sum(item.received for item in self.responses)

    @property
    def rated(self) -> int:
        return sum(item.rated for item in self.responses)

    @property
    def rated_share(self) -> float | None:
        return self.rated / self.received if self.received else None

    @property
    def categories(self) -> int:
        return sum(self.raters_per_category.values())

    @property
    def median_raters(self) -> int | None:
        seen = 0
        for raters, count in sorted(self.raters_per_category.items()):
            seen += count
            if 2 * seen >= self.categories:
                return raters
        return None

    @property
    def lonely_categories(self) -> int:
        """Judged by a single person."""
        return self.raters_per_category.get(1, 0)


def collection(db: Session, project: Project) -> Collection:
    values = {"project": project.id, "most": LOOKED_AT}
    seconds, verdicts = db.execute(_SECONDS, values).one()
    cost = project.settings.get(COST_KEY) or {}
    return Collection(
        responses=[Response(*row) for row in db.execute(_RESPONSES, values)],
        raters_per_category={row.raters: row.categories for row in db.execute(_COVERAGE, values)},
        cost=Cost(
            seconds=float(seconds) / 1000 if seconds is not None else None,
            verdicts=verdicts,
            per_hour=cost.get("per_hour"),
            currency=cost.get("currency", ""),
        ),
        pii=[PiiFinding(kind, count, int(mentions)) for kind, count, mentions in db.execute(_PII, values)],
        pii_looked_at=db.scalar(_PII_LOOKED, values) or 0,
    )


def save_cost(db: Session, project: Project, per_hour: str, currency: str, user: User | None) -> None:
    """What an annotator's hour costs; nothing typed takes it away. Raises InvalidError by field."""
    errors: dict[str, str] = {}
    typed, currency = per_hour.strip().replace(",", "."), currency.strip()
    value: dict[str, Any] = {}
    if typed:
        try:
            number = float(typed)
        except ValueError:
            number = -1.0
        if not 0 < number <= 100_000:
            errors["per_hour"] = "an amount from 0 to 100,000, such as 24.50"
        value = {"per_hour": number, "currency": currency}
    if len(currency) > 8 or not currency.isprintable():
        errors["currency"] = "at most 8 characters, such as EUR"
    if errors:
        raise InvalidError("The hourly rate does not fit.", fields=errors)
    if value == (project.settings.get(COST_KEY) or {}):
        return
    project.settings = {**project.settings, COST_KEY: value}
    db.flush()
    audit.record(db, "annotation_cost.changed", project_id=project.id, user_id=user.id if user else None, **value)
