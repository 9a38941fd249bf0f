"""Completions for the pages: a filtered keyset list, and one with its ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, case, exists, func, select
from sqlalchemy.orm import Session, contains_eager

from app.core.errors import NotFoundError
from app.core.pagination import Page, page_of
from app.feedback.queue import SOURCE
from app.models import Completion, Project, Prompt, Rating, User

PAGE = 50
MAX_CHOICES = 1000
STATES = ("unrated", "desirable", "undesirable", "tied")
"""What a completion's current ratings say by majority."""


@dataclass(frozen=True, slots=True)
class Filter:
    category: str = ""
    model: str = ""
    state: str = ""
    text: str = ""

    @property
    def active(self) -> bool:
        return any((self.category, self.model, self.state, self.text))


@dataclass(frozen=True, slots=True)
class Votes:
    up: int = 0
    down: int = 0

    @property
    def label(self) -> bool | None:
        """Majority; None without ratings or with a tie."""
        return None if self.up == self.down else self.up > self.down


@dataclass(frozen=True, slots=True)
class Line:
    completion: Completion
    votes: Votes


def _narrowed(query: Select[Completion], wanted: Filter) -> Select[Completion]:
    if wanted.category:
        query = query.where(Prompt.category == wanted.category)
    if wanted.model:
        query = query.where(Completion.model == wanted.model)
    if wanted.text:
        pattern = wanted.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        query = query.where(Completion.text.ilike(f"%{pattern}%", escape="\\"))
    if wanted.state not in STATES:
        return query
    rated = exists().where(Rating.completion_id == Completion.id, Rating.is_current)
    if wanted.state == "unrated":
        return query.where(~rated)
    balance = (
        select(func.sum(case((Rating.value, 1), else_=-1)))
        .where(Rating.completion_id == Completion.id, Rating.is_current)
        .correlate(Completion)
        .scalar_subquery()
    )
    if wanted.state == "tied":
        return query.where(balance == 0)
    return query.where(balance > 0 if wanted.state == "desirable" else balance < 0)


def _votes(db: Session, project: Project, ids: Sequence[int]) -> dict[int, Votes]:
    query = (
        select(Rating.completion_id, func.count().filter(Rating.value), func.count().filter(~Rating.value))
        .where(Rating.project_id == project.id, Rating.completion_id.in_(ids), Rating.is_current)
        .group_by(Rating.completion_id)
    )
    return {key: Votes(up, down) for key, up, down in db.execute(query)}


def list_completions(db: Session, project: Project, wanted: Filter, before: int | None) -> Page[Line]:
    """Newest first, ``PAGE`` at a time; ``before`` is the last id of the page before."""
    query = (
        select(Completion)
        .join(Completion.prompt)
        .options(contains_eager(Completion.prompt))
        .where(Completion.project_id == project.id)
        .order_by(Completion.id.desc())
        .limit(PAGE + 1)
    )
    if before is not None:
        query = query.where(Completion.id < before)
    rows = db.scalars(_narrowed(query, wanted)).all()
    votes = _votes(db, project, [row.id for row in rows])
    return page_of([Line(row, votes.get(row.id, Votes())) for row in rows], PAGE, lambda line: line.completion.id)


def choices(db: Session, project: Project) -> tuple[Sequence[str], Sequence[str]]:
    """Categories and models that occur, for the filters."""
    categories = select(Prompt.category).where(Prompt.project_id == project.id, Prompt.category.is_not(None))
    models = select(Completion.model).where(Completion.project_id == project.id, Completion.model.is_not(None))
    return (
        [name for name in db.scalars(categories.distinct().order_by(Prompt.category).limit(MAX_CHOICES)) if name],
        [name for name in db.scalars(models.distinct().order_by(Completion.model).limit(MAX_CHOICES)) if name],
    )


def get_completion(db: Session, project: Project, completion_id: int) -> Completion:
    """Raises NotFoundError, also for another project's completion."""
    query = (
        select(Completion)
        .join(Completion.prompt)
        .options(contains_eager(Completion.prompt))
        .where(Completion.project_id == project.id, Completion.id == completion_id)
    )
    completion = db.scalar(query)
    if completion is None:
        raise NotFoundError("There is no such completion in this project.")
    return completion


def ratings_of(db: Session, project: Project, completion: Completion) -> Sequence[Rating]:
    """Current ones first, then the history, newest first."""
    query = select(Rating).where(Rating.project_id == project.id, Rating.completion_id == completion.id)
    return db.scalars(query.order_by(Rating.is_current.desc(), Rating.id.desc()).limit(500)).all()


def rater_names(db: Session, ratings: Sequence[Rating]) -> dict[str, str]:
    """``user:<id>`` of annotators -> their names."""
    raters = {row.rater.removeprefix("user:") for row in ratings if row.source == SOURCE}
    ids = [int(rater) for rater in raters if rater.isdecimal()]
    return {f"user:{user.id}": user.name for user in db.scalars(select(User).where(User.id.in_(ids)))}
