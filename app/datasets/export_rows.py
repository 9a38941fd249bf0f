"""Rows to export, one at a time and in one order: of the labels as they are now, or of a snapshot's files.

Messages stay JSON text on their way: the fastest form, and the same bytes every time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm
from typing import Any

from sqlalchemy import Text, cast, select
from sqlalchemy import text as sql
from sqlalchemy.orm import Session

from app.core.db import session_scope
from app.datasets.labels import KEPT, judged, verdicts
from app.datasets.service import snapshot_file
from app.datasets.splits import SIDES, Side, side_of
from app.models import Completion, Project, Prompt, Rating, Snapshot

MAX_PAIRS = 4
"""Of one prompt: a few prompts with many ratings would otherwise make most pairs."""
_FETCH = 2000
_WORK_MEMORY = "64MB"
"""Sorting a million rows in 4 MB takes many more passes over the disk."""


@dataclass(frozen=True, slots=True)
class LabelRow:
    prompt: str
    """JSON text of the messages."""
    completion: str
    label: bool
    category: str | None
    root: str
    side: Side


@dataclass(frozen=True, slots=True)
class PairRow:
    prompt: str
    chosen: str
    rejected: str
    category: str | None
    side: Side


def current_rows(project: Project) -> Iterator[LabelRow]:
    """Every label by the project's rule, through a server-side cursor in a transaction of its own."""
    with session_scope() as db:
        _set_up(db)
        project = db.get_one(Project, project.id)
        rows = judged(verdicts(project), project)
        query = (
            select(
                cast(Prompt.messages, Text).label("prompt"),
                cast(Completion.messages, Text).label("completion"),
                rows.c.label,
                rows.c.category,
                rows.c.root,
            )
            .select_from(rows)
            .join(Completion, Completion.id == rows.c.completion_id)
            .join(Prompt, Prompt.id == Completion.prompt_id)
            .where(rows.c.status == KEPT)
            .order_by(rows.c.root.collate("C"), rows.c.prompt_key, rows.c.answer_key)
        )
        salt = project.split_salt
        last_root, side = "", SIDES[0]
        for prompt, completion, label, category, root in _streamed(db, query):
            if root != last_root:
                last_root, side = root, side_of(root, salt)
            yield LabelRow(prompt, completion, label, category, root, side)


def _set_up(db: Session) -> None:
    db.execute(sql(f"SET LOCAL work_mem = '{_WORK_MEMORY}'"))
    db.execute(sql("SET LOCAL cursor_tuple_fraction = 1"))  # all rows are wanted, not the first ones soon
    # Of a table that has grown since it was last analysed PostgreSQL thinks that it is small, and joins it row by row.
    db.execute(sql("SET LOCAL enable_nestloop = off"))


def _streamed(db: Session, query: Any) -> Iterator[Any]:
    for part in db.execute(query, execution_options={"stream_results": True, "yield_per": _FETCH}).partitions():
        yield from part


_compact = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def snapshot_rows(snapshot: Snapshot) -> Iterator[LabelRow]:
    """In the order of the files: train, dev, test. The same snapshot gives the same rows for ever."""
    for side in SIDES:
        with snapshot_file(snapshot, f"{side}.jsonl").open("rb") as file:
            for line in file:
                row = json.loads(line)
                prompt, completion = _compact(row["prompt"]), _compact(row["completion"])
                yield LabelRow(prompt, completion, row["label"], row["category"], row["root"], side)


def pairs(rows: Iterator[LabelRow]) -> Iterator[PairRow]:
    """Desirable against undesirable completions of one prompt, at most four a prompt, each completion as seldom as can be.

    Rows of one prompt stand together in every export's order.
    """
    same: list[LabelRow] = []
    for row in rows:
        if same and (row.prompt != same[0].prompt or row.root != same[0].root or row.side != same[0].side):
            yield from _pairs_of(same)
            same = []
        if len(same) < 200 or not any(each.label == row.label for each in same):
            same.append(row)
    yield from _pairs_of(same)


def _pairs_of(rows: list[LabelRow]) -> Iterator[PairRow]:
    chosen = [row for row in rows if row.label]
    rejected = [row for row in rows if not row.label]
    count = min(MAX_PAIRS, len(chosen) * len(rejected))
    for number in range(count):
        # Along the diagonal, around both sides; once it comes back to its start, along the next one.
        lap = number // lcm(len(chosen), len(rejected))
        up, down = chosen[number % len(chosen)], rejected[(number + lap) % len(rejected)]
        yield PairRow(up.prompt, up.completion, down.completion, up.category, up.side)


RATING_COLUMNS = (
    "id",
    "completion_id",
    "prompt",
    "completion",
    "model",
    "category",
    "source",
    "rater",
    "value",
    "reasons",
    "comment",
    "external_id",
    "occurred_at",
)


def rating_rows(project: Project) -> Iterator[tuple[Any, ...]]:
    """One row a current rating, by id: values of ``RATING_COLUMNS``."""
    with session_scope() as db:
        _set_up(db)
        query = (
            select(
                Rating.id,
                Rating.completion_id,
                cast(Prompt.messages, Text).label("prompt"),
                Completion.text,
                Completion.model,
                Prompt.category,
                Rating.source,
                Rating.rater,
                Rating.value,
                Rating.reasons,
                Rating.comment,
                Rating.external_id,
                Rating.occurred_at,
            )
            .join(Completion, Completion.id == Rating.completion_id)
            .join(Prompt, Prompt.id == Completion.prompt_id)
            .where(Rating.project_id == project.id, Rating.is_current)
            .order_by(Rating.id)
        )
        for row in _streamed(db, query):
            yield tuple(row)
