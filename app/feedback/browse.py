"""Completions for the pages: a filtered keyset list, and one with its ratings.

The first page must come at once from a million rows. Newest-first lists end after a few rows where most rows fit the filter,
and walk for ever where hardly any do; so a filter that finds few is asked first for all its ids (at most ``MANY``), and only
one that finds more is walked. Words are looked for in the newest ``NEAR`` completions before the index is asked: it reads all
places of a common word, however few are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Select, any_, func, literal, or_, select, text
from sqlalchemy.orm import Session, contains_eager

from app.core.errors import NotFoundError
from app.core.pagination import Page, page_of
from app.feedback.filters import STATES, Filter, conditions, filtered_ids, tsquery, with_state
from app.feedback.queue import SOURCE
from app.feedback.search import not_indexed_hits
from app.models import Completion, CompletionSearch, CompletionVotes, Project, Prompt, Rating, User

__all__ = ["STATES", "Filter", "filtered_ids"]

PAGE = 50
MAX_CHOICES = 1000
MANY = 2500
NEAR = 1000
CHUNK = 200
"""Candidates that are looked at in one statement."""


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


def _few(db: Session, query: Select[int]) -> list[int] | None:
    """All ids of the query, None where there are more than ``MANY``."""
    ids = list(db.scalars(query.limit(MANY + 1)))
    return ids if len(ids) <= MANY else None


def _by_category(db: Session, project: Project, category: str) -> ColumnElement[bool]:
    prompts = _few(db, select(Prompt.id).where(Prompt.project_id == project.id, Prompt.category == category))
    if prompts is None:
        return Prompt.category == category
    return Completion.prompt_id == any_(literal(prompts, ARRAY(BigInteger)))


@dataclass(slots=True)
class _Narrowed:
    """``candidates``: all ids that may fit, where a filter found few; conditions still hold for them."""

    query: Any
    """A select of completions with their counts."""
    candidates: set[int] | None = None

    def among(self, ids: list[int] | None, otherwise: Select[int]) -> None:
        if ids is None:
            self.query = self.query.where(otherwise.exists())
        else:
            self.candidates = set(ids) if self.candidates is None else self.candidates & set(ids)


def _narrow(db: Session, project: Project, found: _Narrowed, wanted: Filter) -> None:
    if wanted.category:
        found.query = found.query.where(_by_category(db, project, wanted.category))
    if wanted.model:
        found.query = found.query.where(Completion.model == wanted.model)
    if wanted.state in STATES:
        found.query = found.query.where(CompletionVotes.project_id == project.id, with_state(wanted.state))
    if wanted.source:
        rated = select(Rating.completion_id).where(
            Rating.project_id == project.id, Rating.source == wanted.source, Rating.is_current
        )
        found.among(_few(db, rated), rated.where(Rating.completion_id == Completion.id))


def _with_words(
    db: Session, project: Project, found: _Narrowed, words: ColumnElement[Any], before: int | None
) -> list[Any]:
    """Rows of a page whose completions hold all ``words``."""
    hits = select(CompletionSearch.completion_id).where(
        CompletionSearch.project_id == project.id, CompletionSearch.document.bool_op("@@")(words)
    )
    late = not_indexed_hits(db, project, str(db.scalar(select(words))))
    held = or_(
        hits.where(CompletionSearch.completion_id == Completion.id).exists(),
        Completion.id == any_(literal(late, ARRAY(BigInteger))),
    )
    walked = found.query.where(held)
    # Completion by completion: the index of words would fetch all hits first.
    db.execute(_BY_ROW)
    if found.candidates is not None:
        return _rows(db, _Narrowed(walked, found.candidates), before)
    near = _newest(db, project, before)
    rows = _rows(db, _Narrowed(walked, near), before)
    if len(rows) > PAGE or len(near) < NEAR:
        return rows
    db.execute(_BY_INDEX)
    ids = _few(db, hits)
    if ids is not None:
        return _rows(db, _Narrowed(found.query, {*ids, *late}), before)
    db.execute(_BY_ROW)
    return list(db.execute(walked))


_BY_ROW = text("SET LOCAL enable_bitmapscan = off")
_BY_INDEX = text("SET LOCAL enable_bitmapscan = on")


def _newest(db: Session, project: Project, before: int | None) -> set[int]:
    query = select(Completion.id).where(Completion.project_id == project.id)
    if before is not None:
        query = query.where(Completion.id < before)
    return set(db.scalars(query.order_by(Completion.id.desc()).limit(NEAR)))


def list_completions(db: Session, project: Project, wanted: Filter, before: int | None) -> Page[Line]:
    """Newest first, ``PAGE`` at a time; ``before`` is the last id of the page before."""
    number = CompletionVotes.completion_id if wanted.state in STATES else Completion.id  # whose index is walked
    query = (
        select(Completion, CompletionVotes.ups, CompletionVotes.downs)
        .join(Completion.prompt)
        .join(CompletionVotes, CompletionVotes.completion_id == Completion.id)
        .options(contains_eager(Completion.prompt))
        .where(Completion.project_id == project.id)
        .order_by(number.desc())
        .limit(PAGE + 1)
    )
    if before is not None:
        query = query.where(number < before)
    found = _Narrowed(query)
    _narrow(db, project, found, wanted)
    words = tsquery(project, wanted.text)
    if words is not None:
        rows = _with_words(db, project, found, words, before)
    else:
        rows = [] if wanted.text else _rows(db, found, before)
    lines = [Line(completion, Votes(ups, downs)) for completion, ups, downs in rows]
    return page_of(lines, PAGE, lambda line: line.completion.id)


def _rows(db: Session, found: _Narrowed, before: int | None) -> list[Any]:
    """Of candidates the newest are looked at first, and no more of them than fill the page."""
    if found.candidates is None:
        return list(db.execute(found.query))
    ids = sorted((key for key in found.candidates if before is None or key < before), reverse=True)
    rows: list[Any] = []
    for start in range(0, len(ids), CHUNK):
        some = literal(ids[start : start + CHUNK], ARRAY(BigInteger))
        rows += db.execute(found.query.where(Completion.id == any_(some)))
        if len(rows) > PAGE:
            break
    return rows[: PAGE + 1]


def rated_by(db: Session, project: Project, rater: str, lines: Sequence[Line]) -> set[int]:
    """Ids of the lines' completions on which this annotator has given a verdict."""
    query = select(Rating.completion_id).where(
        Rating.project_id == project.id,
        Rating.source == SOURCE,
        Rating.rater == rater,
        Rating.is_current,
        Rating.completion_id.in_([line.completion.id for line in lines]),
    )
    return set(db.scalars(query))


def count_up_to(db: Session, project: Project, wanted: Filter, limit: int) -> int:
    """How many fit, counted no further than ``limit``."""
    some = select(Completion.id).where(*conditions(project, wanted)).limit(limit).subquery()
    return db.scalar(select(func.count()).select_from(some)) or 0


_NAMES = """
    WITH RECURSIVE names AS (
        (SELECT {column} AS name FROM {table} WHERE project_id = :project AND {column} IS NOT NULL ORDER BY {column} LIMIT 1)
        UNION ALL
        SELECT (SELECT t.{column} FROM {table} t WHERE t.project_id = :project AND t.{column} > names.name
                ORDER BY t.{column} LIMIT 1)
        FROM names WHERE names.name IS NOT NULL
    )
    SELECT name FROM names WHERE name IS NOT NULL LIMIT :limit
"""


def _names(db: Session, project: Project, table: str, column: str) -> list[str]:
    """Distinct values by hopping through the index: as many steps as there are values, however many rows there are."""
    statement = text(_NAMES.format(table=table, column=column))
    return [name for name in db.scalars(statement, {"project": project.id, "limit": MAX_CHOICES}) if name]


def choices(db: Session, project: Project) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """Categories, models and sources that occur, for the filters."""
    return (
        _names(db, project, "prompts", "category"),
        _names(db, project, "completions", "model"),
        _names(db, project, "ratings", "source"),
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
