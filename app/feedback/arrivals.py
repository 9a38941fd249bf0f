"""What came in from each source: the last 24 hours by the hour, the last week's balance, the last rating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from app.accounts.keys import has_ended
from app.core.clock import utcnow
from app.feedback.api_parts import source_of
from app.models import ApiKey, Project, Rating

HOURS = 24
WEEK = timedelta(days=7)


@dataclass(slots=True)
class Arrivals:
    """One source."""

    name: str
    last_at: datetime | None = None
    """None: nothing came yet."""
    by_hour: list[int] = field(default_factory=lambda: [0] * HOURS)
    """Oldest hour first; the last one ends now."""
    ups: int = 0
    """Current ratings of the last 7 days."""
    downs: int = 0
    key: ApiKey | None = None
    """A valid key whose feedback bears this name."""

    @property
    def today(self) -> int:
        return sum(self.by_hour)

    @property
    def share_up(self) -> float | None:
        total = self.ups + self.downs
        return self.ups / total if total else None


def arrivals(db: Session, project: Project, keys: Sequence[ApiKey]) -> list[Arrivals]:
    """Sources with ratings, the newest first; then keys that may send feedback and have sent none."""
    found = {name: Arrivals(name, last_at) for name, last_at in _last(db, project).items()}
    for key in keys:
        if "feedback:write" in key.scopes and not has_ended(key):
            source = found.setdefault(source_of(key), Arrivals(source_of(key)))
            source.key = source.key or key
    _fill(db, project, found)
    far = datetime.min.replace(tzinfo=utcnow().tzinfo)
    return sorted(found.values(), key=lambda source: source.last_at or far, reverse=True)


def arrivals_of(db: Session, project: Project, keys: Sequence[ApiKey], name: str) -> Arrivals | None:
    return next((source for source in arrivals(db, project, keys) if source.name == name), None)


def _last(db: Session, project: Project) -> dict[str, datetime]:
    """Source -> when its last rating came. Steps from source to source in the index, so millions of ratings cost nothing."""
    step = (
        select(func.min(Rating.source).label("source"))
        .where(Rating.project_id == project.id)
        .cte("step", recursive=True)
    )
    after = select(func.min(Rating.source)).where(Rating.project_id == project.id, Rating.source > step.c.source)
    step = step.union_all(select(after.scalar_subquery()).where(step.c.source.is_not(None)))
    other = aliased(Rating)
    newest = select(func.max(other.id)).where(other.project_id == project.id, other.source == step.c.source)
    at = select(Rating.created_at).where(Rating.id == newest.correlate(step).scalar_subquery()).correlate(step)
    query = select(step.c.source, at.scalar_subquery()).where(step.c.source.is_not(None))
    return {name: last_at for name, last_at in db.execute(query).all() if last_at is not None}


def _fill(db: Session, project: Project, found: dict[str, Arrivals]) -> None:
    now = utcnow()
    hour = func.floor(func.extract("epoch", now - Rating.created_at) / 3600)
    recent = select(Rating.source, hour, func.count()).where(
        Rating.project_id == project.id, Rating.created_at > now - timedelta(hours=HOURS)
    )
    for name, ago, count in db.execute(recent.group_by(Rating.source, hour)):
        if name in found:
            found[name].by_hour[HOURS - 1 - min(max(int(ago), 0), HOURS - 1)] += count
    week = select(
        Rating.source,
        func.count().filter(Rating.value),
        func.count().filter(~Rating.value),
    ).where(Rating.project_id == project.id, Rating.created_at > now - WEEK, Rating.is_current)
    for name, ups, downs in db.execute(week.group_by(Rating.source)):
        if name in found:
            found[name].ups, found[name].downs = ups, downs
