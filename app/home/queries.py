"""What Home counts. Every query is bounded by a time window or a row limit, so Home costs the same at ten million ratings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from app.evaluations.queries import best_of
from app.models import (
    AnnotationQueue,
    AnnotationSlot,
    Evaluation,
    ModelVersion,
    Project,
    Rating,
    Run,
    RunStatus,
    Snapshot,
    User,
    Worker,
)
from app.web.svg import Day

DAYS = 30
LABEL_LIMIT = 100_000
COUNT_LIMIT = 10_000
RECENT_RUNS = 5
OPEN_STATUSES = ("queued", "starting", "running", "paused", "stopping", "interrupted")


@dataclass(frozen=True, slots=True)
class Count:
    """A count that stopped at a limit shows itself as "10,000+"."""

    value: int
    limit: int = COUNT_LIMIT

    def __str__(self) -> str:
        return f"{min(self.value, self.limit):,}{'+' if self.value > self.limit else ''}"

    def __bool__(self) -> bool:
        return self.value > 0


@dataclass(frozen=True, slots=True)
class Labels:
    desirable: int
    undesirable: int
    is_whole: bool
    """False when only the newest LABEL_LIMIT ratings were looked at."""

    @property
    def total(self) -> int:
        return self.desirable + self.undesirable


@dataclass(frozen=True, slots=True)
class Annotator:
    user: User
    per_hour: int


@dataclass(frozen=True, slots=True)
class RecentRun:
    run: Run
    best: Evaluation | None
    num_evaluations: int


def ratings_per_day(db: Session, project: Project, now: datetime, days: int = DAYS) -> list[Day]:
    """Arrivals by day (UTC), oldest first, days without one included."""
    today = now.astimezone(UTC).date()
    first = today - timedelta(days=days - 1)
    day = func.date(func.timezone("UTC", Rating.created_at))
    counts: dict[date, list[int]] = {first + timedelta(days=index): [0, 0] for index in range(days)}
    for when, value, count in db.execute(
        select(day, Rating.value, func.count())
        .where(
            Rating.project_id == project.id,
            Rating.is_current,
            Rating.created_at >= datetime(first.year, first.month, first.day, tzinfo=UTC),
        )
        .group_by(day, Rating.value)
    ):
        if when in counts:
            counts[when][0 if value else 1] = count
    return [Day(when, desirable, undesirable) for when, (desirable, undesirable) in counts.items()]


def label_balance(db: Session, project: Project) -> Labels:
    """Majority labels of the completions under the newest ratings; ties count for neither class."""
    newest = (
        select(Rating.completion_id, Rating.value)
        .where(Rating.project_id == project.id, Rating.is_current)
        .order_by(Rating.id.desc())
        .limit(LABEL_LIMIT)
        .subquery()
    )
    ups, downs = func.count().filter(newest.c.value), func.count().filter(~newest.c.value)
    votes = (
        select(ups.label("ups"), downs.label("downs"), func.count().label("n")).group_by(newest.c.completion_id)
    ).subquery()
    desirable, undesirable, seen = db.execute(
        select(
            func.count().filter(votes.c.ups > votes.c.downs),
            func.count().filter(votes.c.downs > votes.c.ups),
            func.coalesce(func.sum(votes.c.n), 0),
        )
    ).one()
    return Labels(desirable, undesirable, is_whole=seen < LABEL_LIMIT)


def ratings_since(db: Session, project: Project, snapshot: Snapshot) -> Count:
    newer = (
        select(Rating.id)
        .where(Rating.project_id == project.id, Rating.created_at > snapshot.created_at)
        .limit(COUNT_LIMIT + 1)
        .subquery()
    )
    return Count(db.scalar(select(func.count()).select_from(newer)) or 0)


def open_slots(db: Session, project: Project) -> Count:
    """Verdicts that the annotation queues still want."""
    waiting = (
        select(AnnotationSlot.id)
        .join(AnnotationQueue, AnnotationQueue.id == AnnotationSlot.queue_id)
        .where(AnnotationQueue.project_id == project.id, AnnotationSlot.done_at.is_(None))
        .limit(COUNT_LIMIT + 1)
        .subquery()
    )
    return Count(db.scalar(select(func.count()).select_from(waiting)) or 0)


def annotating_now(db: Session, project: Project, now: datetime) -> list[Annotator]:
    """People who rated on the annotation page in the last ten minutes, with their ratings of the last hour."""
    counted = db.execute(
        select(Rating.rater, func.count())
        .where(
            Rating.project_id == project.id,
            Rating.source == "annotation",
            Rating.created_at > now - timedelta(hours=1),
        )
        .group_by(Rating.rater)
        .having(func.max(Rating.created_at) > now - timedelta(minutes=10))
        .order_by(func.count().desc())
        .limit(8)
    ).all()
    pace = {int(number): count for rater, count in counted if (number := rater.removeprefix("user:")).isdecimal()}
    people = {user.id: user for user in db.scalars(select(User).where(User.id.in_(pace)))}
    return [Annotator(people[user_id], count) for user_id, count in pace.items() if user_id in people]


def recent_runs(db: Session, project: Project) -> list[RecentRun]:
    runs = list(
        db.scalars(
            select(Run)
            .options(joinedload(Run.snapshot))
            .where(Run.project_id == project.id)
            .order_by(Run.id.desc())
            .limit(RECENT_RUNS)
        )
    )
    evaluations: dict[int, list[Evaluation]] = {run.id: [] for run in runs}
    for item in db.scalars(
        select(Evaluation)
        .where(Evaluation.project_id == project.id, Evaluation.run_id.in_(evaluations))
        .order_by(Evaluation.step)
    ):
        evaluations[item.run_id].append(item)
    return [RecentRun(run, best_of(evaluations[run.id]), len(evaluations[run.id])) for run in runs]


def open_run(db: Session, project: Project) -> Run | None:
    """The run that trains, waits or is paused, in this order."""
    return db.scalar(
        select(Run)
        .where(Run.project_id == project.id, Run.status.in_(OPEN_STATUSES))
        .order_by((Run.status == RunStatus.RUNNING).desc(), Run.status == RunStatus.PAUSED, Run.id)
        .limit(1)
    )


def has_version(db: Session, run: Run) -> bool:
    return db.scalar(select(ModelVersion.id).where(ModelVersion.run_id == run.id).limit(1)) is not None


def worker_is_there(db: Session, now: datetime) -> bool:
    return db.scalar(select(Worker.name).where(Worker.heard_at > now - timedelta(minutes=2)).limit(1)) is not None
