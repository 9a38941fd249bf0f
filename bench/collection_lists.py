"""The completions page at a million rows: first page, filters and search, keyset pages.

    make bench NAME=collection ARGS=lists

A million completions in 50 projects and, beside them, one project of 200,000 (QUICK=1: a tenth of both); every kind of filter is asked
in turn for several projects, with the database's caches as they are in use. The time is that of the whole query of the page
(rows, votes, choices of the filters), without rendering. The floor is a page of 51 rows by the primary key.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from sqlalchemy import select

from app.core.db import new_session
from app.feedback.browse import choices, list_completions
from app.feedback.filters import Filter
from app.models import Completion, Project
from bench.collection_fill import fill_inside
from bench.report import Row, percentile, row
from bench.studio import studio

MUST_MS = 200
ASKED = {
    "first page": Filter(),
    "category": Filter(category="category 7"),
    "model": Filter(model="model-3"),
    "unrated": Filter(state="unrated"),
    "split": Filter(state="split"),
    "source": Filter(source="shop"),
    "common word": Filter(text="w1"),
    "rare word": Filter(text="w1999"),
    "no such word": Filter(text="nowhere"),
    "beginning of a word": Filter(text="w19"),
    "two words and a category": Filter(text="w2 w31", category="category 7"),
    "desirable, model and word": Filter(text="w5", state="desirable", model="model-3"),
}


def rows(quick: bool) -> Iterator[Row]:
    factor = 10 if quick else 1
    with studio():
        many = fill_inside(1_000_000 // factor, 50)
        one = fill_inside(200_000 // factor, 1)
        for what, ids in (("1,000,000 in 50 projects", many[:10]), ("one project of 200,000", one * 10)):
            yield from _asked(what, ids)


def _asked(what: str, ids: list[int]) -> Iterator[Row]:
    with new_session() as db:
        projects = [db.get_one(Project, number) for number in ids]
    floor = [_timed(project, None) for project in projects]
    yield row(f"{what}: 51 rows by the primary key", "ms", floor)
    everything: list[float] = []
    for name, wanted in ASKED.items():
        took = [_timed(project, wanted) for project in projects]
        everything += took
        yield row(f"{what}: {name}, p95", "ms", took, value=percentile(took, 0.95), at_most=MUST_MS)
    yield row(f"{what}: all of them, p95", "ms", everything, value=percentile(everything, 0.95), at_most=MUST_MS)


def _timed(project: Project, wanted: Filter | None) -> float:
    with new_session() as db:
        began = time.perf_counter()
        if wanted is None:
            db.scalars(select(Completion).order_by(Completion.id.desc()).limit(51)).all()
        else:
            list_completions(db, project, wanted, None)
            choices(db, project)
        return 1000 * (time.perf_counter() - began)
