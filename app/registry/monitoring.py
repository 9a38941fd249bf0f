"""Votes and answers after promotion, by the model that apps name. Every query is bounded by a window or a row limit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.models import Completion, Incident, Project, Prompt, Rating
from worker.alignment.evaluation.monitoring import Adjusted, Cusum, OddRater, Rate, adjusted, cusum, odd_raters, wilson
from worker.alignment.evaluation.refusals import classify
from worker.alignment.evaluation.suites import pii
from worker.alignment.evaluation.texts import is_loop

DAYS = 90
MAX_VOTES = 20_000
"""Newest votes that the control chart follows."""
TEXTS = 400
"""Newest answers of a model that the sentinels read."""
MIN_BASELINE = 50
SENTINELS = {
    "loops": "Loops",
    "truncation": "Cut off",
    "refusals": "Refusals",
    "duplicates": "Repeated answers",
    "pii": "Personal data",
}


@dataclass(slots=True)
class ModelVotes:
    model: str
    since: datetime
    """Its first vote in the window."""
    categories: dict[str, tuple[int, int]] = field(default_factory=dict)
    days: dict[date, tuple[int, int]] = field(default_factory=dict)
    num_answers: int = 0
    """Completions that came in the window, voted on or not."""

    @property
    def counts(self) -> tuple[int, int]:
        pairs = self.categories.values()
        return sum(down for down, _ in pairs), sum(votes for _, votes in pairs)

    @property
    def rate(self) -> Rate:
        return wilson(*self.counts)


def votes_by_model(db: Session, project: Project, now: datetime) -> list[ModelVotes]:
    """Models with a vote in the window, the one that came last first. Votes that name no model count as ``unnamed``."""
    since = now - timedelta(days=DAYS)
    model = func.coalesce(Completion.model, "unnamed")
    category = func.coalesce(Prompt.category, "")
    day = func.date(Rating.occurred_at)
    rows = db.execute(
        select(
            model,
            category,
            day,
            func.count().filter(Rating.value.is_(False)),
            func.count(),
            func.min(Rating.occurred_at),
        )
        .select_from(Rating)
        .join(Completion, Completion.id == Rating.completion_id)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Rating.project_id == project.id, Rating.is_current, Rating.occurred_at >= since)
        .group_by(model, category, day)
    )
    found: dict[str, ModelVotes] = {}
    for name, group, on, down, votes, first in rows:
        entry = found.setdefault(name, ModelVotes(name, first))
        entry.since = min(entry.since, first)
        for table, key in ((entry.categories, group), (entry.days, on)):
            before = table.get(key, (0, 0))
            table[key] = (before[0] + down, before[1] + votes)
    answers = (
        select(model, func.count())
        .where(Completion.project_id == project.id, Completion.created_at >= since)
        .group_by(model)
    )
    for name, count in db.execute(answers):
        if name in found:
            found[name].num_answers = count
    return sorted(found.values(), key=lambda entry: (entry.since, entry.model), reverse=True)


def _is_model(name: str) -> ColumnElement[bool]:
    return Completion.model.is_(None) if name == "unnamed" else Completion.model == name


def control_chart(db: Session, project: Project, current: ModelVotes, baseline: ModelVotes) -> Cusum | None:
    """From the last closed incident of this kind on. None where the baseline has too few votes, or only one kind."""
    down, votes = baseline.counts
    if votes < MIN_BASELINE or down in {0, votes}:
        return None
    closed = db.scalar(
        select(func.max(Incident.closed_at)).where(
            Incident.project_id == project.id, Incident.kind == "down_votes", Incident.subject == current.model
        )
    )
    query = (
        select(Rating.value)
        .join(Completion, Completion.id == Rating.completion_id)
        .where(Rating.project_id == project.id, Rating.is_current, _is_model(current.model))
        .where(Rating.occurred_at >= (closed or current.since))
        .order_by(Rating.occurred_at.desc(), Rating.id.desc())
        .limit(MAX_VOTES)
    )
    newest_first = list(db.scalars(query))
    return cusum([not up for up in reversed(newest_first)], down / votes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinel:
    key: str
    hits: int
    n: int
    examples: tuple[int, ...]
    """Ids of the first few completions."""

    @property
    def name(self) -> str:
        return SENTINELS[self.key]

    @property
    def counts(self) -> tuple[int, int]:
        return self.hits, self.n

    @property
    def rate(self) -> Rate:
        return wilson(self.hits, self.n)


def sentinels(db: Session, project: Project, model: str) -> dict[str, Sentinel]:
    """Degenerate answers among the newest ``TEXTS`` of a model. A repeated answer was given to another prompt of its category.

    Personal data and secrets that the prompt itself holds do not count.
    """
    rows = db.execute(
        select(
            Completion.id,
            Completion.text,
            Completion.finish_reason,
            Completion.prompt_id,
            func.coalesce(Prompt.category, ""),
            Prompt.messages,
        )
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Completion.project_id == project.id, _is_model(model))
        .order_by(Completion.id.desc())
        .limit(TEXTS)
    ).all()  # fmt: skip
    prompts_of: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        prompts_of[row[4], " ".join(row.text.split()).casefold()].add(row.prompt_id)
    tests: dict[str, Callable[[Any], bool]] = {
        "loops": lambda row: is_loop(row.text),
        "truncation": lambda row: row.finish_reason == "length",
        "refusals": lambda row: classify(row.text) != "none",
        "duplicates": lambda row: len(prompts_of[row[4], " ".join(row.text.split()).casefold()]) > 1,
        "pii": lambda row: _gives_away(row.text, row.messages),
    }
    found = {}
    for key, test in tests.items():
        hits = [row.id for row in rows if test(row)]
        found[key] = Sentinel(key=key, hits=len(hits), n=len(rows), examples=tuple(hits[:5]))
    return found


def _gives_away(text: str, prompt: Sequence[Any]) -> bool:
    asked = "\n".join(str(message.get("content") or "") for message in prompt)
    return any(finding.value not in asked for finding in pii.find(text))


def odd_raters_of(db: Session, project: Project, now: datetime) -> list[OddRater]:
    """In the last week."""
    minute = func.date_trunc("minute", Rating.occurred_at)
    where = (Rating.project_id == project.id, Rating.is_current, Rating.occurred_at >= now - timedelta(days=7))
    rows = db.execute(
        select(Rating.source, Rating.rater, func.count().filter(Rating.value.is_(False)), func.count())
        .where(*where, Rating.source != "import")  # a file's ratings have no time of their own
        .group_by(Rating.source, Rating.rater, minute)
    )
    down: Counter[str] = Counter()
    votes: Counter[str] = Counter()
    busiest: defaultdict[str, int] = defaultdict(int)
    for source, rater, below, count in rows:
        name = f"{source}: {rater}"
        down[name] += below
        votes[name] += count
        busiest[name] = max(busiest[name], count)
    return odd_raters({name: (down[name], votes[name], busiest[name]) for name in votes})


@dataclass(frozen=True, slots=True)
class Watched:
    models: list[ModelVotes]
    current: ModelVotes | None
    baseline: ModelVotes | None
    compared: Adjusted | None
    chart: Cusum | None
    now_texts: dict[str, Sentinel]
    before_texts: dict[str, Sentinel]
    odd: list[OddRater]


def watch(
    db: Session, project: Project, *, model: str = "", baseline: str = "", now: datetime | None = None
) -> Watched:
    """The model that came last beside the one before it, unless others are named."""
    now = now or utcnow()
    models = votes_by_model(db, project, now)
    current = _named(models, model) or (models[0] if models else None)
    earlier = [entry for entry in models if entry is not current]
    before = _named(earlier, baseline) or (earlier[0] if earlier else None)
    both = current is not None and before is not None
    return Watched(
        models=models,
        current=current,
        baseline=before,
        compared=adjusted(current.categories, before.categories) if both and current and before else None,
        chart=control_chart(db, project, current, before) if both and current and before else None,
        now_texts=sentinels(db, project, current.model) if current else {},
        before_texts=sentinels(db, project, before.model) if before else {},
        odd=odd_raters_of(db, project, now),
    )


def _named(models: Sequence[ModelVotes], name: str) -> ModelVotes | None:
    return next((entry for entry in models if entry.model == name), None)
