"""Which completions: the filter of the list, of annotation queues and of bulk labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, cast, exists, func, select
from sqlalchemy.dialects.postgresql import TSQUERY

from app.models import Completion, CompletionSearch, CompletionVotes, Project, Prompt, Rating
from app.models.collection import DOWN, TIED, UNRATED, UP

STATES = ("unrated", "desirable", "undesirable", "tied", "split")
"""What a completion's current ratings say: by majority; split: both verdicts are there."""
_NUMBER = {"unrated": UNRATED, "desirable": UP, "undesirable": DOWN, "tied": TIED}
_WORD = re.compile(r"[^\W_]+")
MIN_PREFIX = 3
"""A shorter last word is searched whole: half of the language begins with it."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Empty fields ask for nothing."""

    category: str = ""
    model: str = ""
    state: str = ""
    text: str = ""
    """Words that all stand in the completion or its last question; of the last word the beginning is enough."""
    source: str = ""
    """Where a current rating came from."""

    @property
    def active(self) -> bool:
        return any(asdict(self).values())

    def to_dict(self) -> dict[str, str]:
        return {key: value for key, value in asdict(self).items() if value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Filter:
        """Unknown keys and values that are no text are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known and isinstance(value, str)})


def mark_of(project_id: int) -> str:
    """A lexeme that every document of a project holds and no text can: the index then never reads other projects' rows."""
    return f"p#{project_id}"


def tsquery(project: Project, text: str) -> ColumnElement[Any] | None:
    """All words, in documents of this project. None where there is no word in it."""
    words = _WORD.findall(text.lower())
    if not words:
        return None
    parts = [f"'{word}'" for word in words]
    if len(words[-1]) >= MIN_PREFIX:
        parts[-1] += ":*"
    # tsquery_and is the function behind &&: as an operator it would bind no tighter than the @@ before it.
    mark = cast(f"'{mark_of(project.id)}'", TSQUERY)
    return func.tsquery_and(mark, func.to_tsquery("simple", " & ".join(parts)), type_=TSQUERY)


def with_state(state: str) -> ColumnElement[bool]:
    """On ``CompletionVotes``."""
    if state == "split":
        return and_(CompletionVotes.ups > 0, CompletionVotes.downs > 0)
    return CompletionVotes.state == _NUMBER[state]


def conditions(project: Project, wanted: Filter) -> list[ColumnElement[bool]]:
    """On ``Completion`` alone, so that any statement can take them."""
    found: list[ColumnElement[bool]] = [Completion.project_id == project.id]
    if wanted.category:
        of_category = select(Prompt.id).where(Prompt.project_id == project.id, Prompt.category == wanted.category)
        found.append(Completion.prompt_id.in_(of_category))
    if wanted.model:
        found.append(Completion.model == wanted.model)
    if wanted.state in STATES:
        votes = exists().where(
            CompletionVotes.completion_id == Completion.id,
            CompletionVotes.project_id == project.id,
            with_state(wanted.state),
        )
        found.append(votes)
    if wanted.source:
        rated = exists().where(
            Rating.completion_id == Completion.id,
            Rating.project_id == project.id,
            Rating.source == wanted.source,
            Rating.is_current,
        )
        found.append(rated)
    words = tsquery(project, wanted.text)
    if words is not None:
        hits = exists().where(
            CompletionSearch.completion_id == Completion.id,
            CompletionSearch.project_id == project.id,
            CompletionSearch.document.bool_op("@@")(words),
        )
        found.append(hits)
    return found


def filtered_ids(project: Project, wanted: Filter) -> Select[int]:
    """Ids of all that fit, in no order. Completions of the last seconds may not be found by their words yet."""
    return select(Completion.id).where(*conditions(project, wanted))
