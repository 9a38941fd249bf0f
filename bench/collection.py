"""Feedback into PostgreSQL: batches of 500 items beside a bare INSERT of the same bytes; an annotator's verdict beside a commit.

    make bench NAME=collection        (QUICK=1: under a minute)
    python -m bench.collection

The bundled PostgreSQL with fsync, so that every commit is on disk. The floor is one multi-row INSERT of the items' JSON into a
table of one text column, and a commit. "Parse" is the check of an item's fields, before it is stored. A verdict is claim +
commit, decide + commit; its floor is two commits of a one-row update.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from app.core.db import get_engine, new_session, session_scope
from app.feedback.queue import decide, hold
from app.feedback.queue_fill import default_queue
from app.models import Project, User
from bench.report import Row, interleave, main, percentile, ratios, row
from bench.studio import BATCH, fill, items, make_project, raw_items, store, studio


def measure(quick: bool) -> Sequence[Row]:
    with studio():
        project, lead = make_project()
        return ingest_rows(project, 6 if quick else 30) + verdict_rows(project, lead, 100 if quick else 500)


def ingest_rows(project: Project, rounds: int) -> list[Row]:
    """Starts with as many stored items as the rounds add, so that no index is empty."""
    fill(project, BATCH * rounds, start=10_000_000)
    raw = {number: raw_items(BATCH * (number + 1), BATCH) for number in range(-1, rounds)}
    parsed = {number: items(batch) for number, batch in raw.items()}
    bodies = {number: [json.dumps(each) for each in batch] for number, batch in raw.items()}
    with get_engine().begin() as connection:
        connection.execute(text("CREATE TABLE floor (id bigserial PRIMARY KEY, body text NOT NULL)"))
    spent = interleave(
        {
            "parse": lambda number: items(raw[number]),
            "ingest": lambda number: store(project, parsed[number]),
            "floor": lambda number: _bare_insert(bodies[number]),
        },
        rounds,
    )
    rate = {name: [BATCH / seconds for seconds in samples] for name, samples in spent.items()}
    return [
        row("parse", "items/s", rate["parse"]),
        row("ingest and commit", "items/s", rate["ingest"]),
        row("bare INSERT of the same bytes", "items/s", rate["floor"]),
        row("ingest / bare INSERT, time", "x", ratios(spent["ingest"], spent["floor"]), at_most=40),
    ]


def _bare_insert(bodies: list[str]) -> None:
    connection: Any = get_engine().raw_connection()
    try:
        statement = f"INSERT INTO floor (body) VALUES {', '.join(['(%s)'] * len(bodies))}"
        connection.cursor().execute(statement, bodies)
        connection.commit()
    finally:
        connection.close()


def verdict_rows(project: Project, lead: User, count: int) -> list[Row]:
    fill(project, count + 10, labelled=False, start=20_000_000)
    with session_scope() as db:
        queue = default_queue(db, project)

    def verdict(number: int) -> None:
        with session_scope() as db:
            slot = hold(db, queue, lead)[0].slot.id
        with session_scope() as db:
            assert decide(db, queue, lead, slot, number % 3 != 0) is not None

    def floor(number: int) -> None:
        for _ in range(2):
            with new_session() as db:
                db.execute(text("UPDATE floor SET body = :body WHERE id = 1"), {"body": str(number)})
                db.commit()

    spent = interleave({"verdict": verdict, "floor": floor}, count)
    took = {name: [1000 * seconds for seconds in samples] for name, samples in spent.items()}
    return [
        row("claim and verdict, p50", "ms", took["verdict"]),
        row("claim and verdict, p95", "ms", took["verdict"], value=percentile(took["verdict"], 0.95)),
        row("two bare commits, p50", "ms", took["floor"]),
        row("verdict / two bare commits", "x", ratios(spent["verdict"], spent["floor"])),
    ]


if __name__ == "__main__":
    sys.exit(main("collection", measure, packages=("sqlalchemy", "psycopg")))
