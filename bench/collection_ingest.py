"""How fast feedback comes in: single events over HTTP beside a bare endpoint, batches beside a raw COPY.

    python -m bench.collection_ingest        (QUICK=1: under a minute)

Single events: 64 connections on the same cores, the product's own server command, PostgreSQL with fsync. The bare side is a
FastAPI application that checks the same body and returns. Batches of 500 go through the same parsing and `ingest` as the route's,
against psycopg's COPY of the same rows into the same tables, with their indexes and triggers, and a commit.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text

from app.accounts.keys import create_key
from app.core.db import get_engine, session_scope
from app.feedback.schemas import parse_feedback
from app.feedback.service import ingest
from app.models import Project
from app.serve import web_argv
from bench import load
from bench.report import CannotRunError, Row, interleave, main, percentile, ratios, row
from bench.studio import BATCH, make_project, raw_items, studio

CLIENTS = 64
ROUNDS = 5
_TABLES = ("prompts", "completions", "ratings")


def rows(quick: bool) -> list[Row]:
    with studio():
        project, _ = make_project()
        return single_rows(project, 1000 if quick else 6000) + batch_rows(project, 6 if quick else 30)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def _serving(application: str, *, factory: bool) -> Iterator[int]:
    """The product's own command line, with another application and port."""
    port = _free_port()
    argv = web_argv()
    argv[argv.index("app.main:create_app")] = application
    argv[argv.index("--port") + 1] = str(port)
    if not factory:
        argv.remove("--factory")
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        else:
            raise CannotRunError(f"{application} did not start")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def single_rows(project: Project, count: int) -> list[Row]:
    with session_scope() as db:
        key, token = create_key(db, project, "shop", ["feedback:write"])
        key.rate_per_minute = 100_000_000
    headers = {"Authorization": f"Bearer {token}"}

    def requests(first: int) -> list[bytes]:
        made = raw_items(first, count)
        return [load.post("/api/v1/feedback", json.dumps(item).encode(), headers) for item in made]

    took: dict[str, list[load.Told]] = {"bare": [], "studio": []}
    with _serving("bench.bare_app:app", factory=False) as bare, _serving("app.main:create_app", factory=True) as ours:
        for number in range(-1, ROUNDS):
            sent = requests(100_000 + (number + 1) * count)
            sides = [("bare", bare), ("studio", ours)]
            for name, port in sides if number % 2 else reversed(sides):
                told = load.run(port, sent, CLIENTS)
                if set(told.statuses) != {201}:
                    raise CannotRunError(f"{name} answered {told.statuses}")
                if number >= 0:
                    took[name].append(told)
    with session_scope() as db:
        stored = db.scalar(text("SELECT count(*) FROM ratings WHERE source = 'shop'"))
    if stored != count * (ROUNDS + 1):
        raise CannotRunError(f"{stored} of {count * (ROUNDS + 1)} acknowledged events are stored")
    rate = {name: [told.rate for told in side] for name, side in took.items()}
    late = [percentile(told.took_ms, 0.95) for told in took["studio"]]
    return [
        row("single events, 64 clients, durable", "events/s", rate["studio"]),
        row("bare endpoint, 64 clients", "events/s", rate["bare"]),
        row("single events / bare endpoint", "x", ratios(rate["studio"], rate["bare"]), at_least=0.5),
        row("single events, 64 clients, p95", "ms", late, at_most=150),
    ]


def batch_rows(project: Project, rounds: int) -> list[Row]:
    raw = {number: raw_items(BATCH * (number + 400), BATCH) for number in range(-1, rounds)}
    bodies = {number: json.dumps({"items": batch}).encode() for number, batch in raw.items()}
    with session_scope() as db:
        twin = Project(slug="copy", name="Copy", split_salt="salt")
        db.add(twin)
    for number, batch in raw.items():  # the same rows, in a project of their own, to be copied in turn
        _ingest(twin, batch, number)
    copies = _taken_out(twin, raw)
    spent = interleave(
        {
            "route": lambda number: _route(project, bodies[number]),
            "copy": lambda number: _copy_in(copies[number]),
        },
        rounds,
    )
    rate = {name: [BATCH / seconds for seconds in samples] for name, samples in spent.items()}
    return [
        row("batch of 500, from bytes to commit", "items/s", rate["route"]),
        row("raw COPY of the same rows", "items/s", rate["copy"]),
        row("batch of 500 / raw COPY", "x", ratios(rate["route"], rate["copy"]), at_least=0.3),
    ]


def _ingest(project: Project, batch: list[dict[str, Any]], number: int) -> None:  # noqa: ARG001 -- of interleave
    with session_scope() as db:
        ingest(db, project, [parse_feedback(item) for item in batch], "shop")


def _route(project: Project, body: bytes) -> None:
    """What the route does between the request's bytes and the answer's."""
    from app.feedback.api_parts import batch_items, batch_result, read_json, split_good

    with session_scope() as db:
        good, bad = split_good(batch_items(read_json(body)), parse_feedback)
        stored = ingest(db, project, [item for _, item in good], "shop")
        answer = batch_result([place for place, _ in good], stored, bad).model_dump_json()
    assert f'"created":{BATCH}' in answer


def _taken_out(twin: Project, raw: dict[int, list[dict[str, Any]]]) -> dict[int, dict[str, bytes]]:
    """The twin's rows of each batch as COPY's text, by table; deleted afterwards, so that they can be copied in again."""
    found: dict[int, dict[str, bytes]] = {}
    connection: Any = get_engine().raw_connection()
    cursor = connection.cursor()
    wanted = {
        "prompts": "SELECT p.* FROM prompts p JOIN completions c ON c.prompt_id = p.id WHERE {of}",
        "completions": "SELECT c.* FROM completions c WHERE {of}",
        "ratings": "SELECT r.* FROM ratings r JOIN completions c ON c.id = r.completion_id WHERE {of}",
    }
    for number in raw:
        first = BATCH * (number + 400)
        names = ", ".join(f"'msg-{each}'" for each in range(first, first + BATCH))
        of = f"c.project_id = {twin.id} AND c.external_id IN ({names})"
        found[number] = {}
        for table, query in wanted.items():
            with cursor.copy(f"COPY ({query.format(of=of)}) TO STDOUT") as copy:
                found[number][table] = b"".join(bytes(block) for block in copy)
    for table in reversed(_TABLES):
        cursor.execute(f"DELETE FROM {table} WHERE project_id = {twin.id}")
    connection.commit()
    connection.close()
    return found


def _copy_in(tables: dict[str, bytes]) -> None:
    connection: Any = get_engine().raw_connection()
    try:
        cursor = connection.cursor()
        for table in _TABLES:
            with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                copy.write(tables[table])
        connection.commit()
    finally:
        connection.close()


def measure(quick: bool) -> Sequence[Row]:
    return rows(quick)


if __name__ == "__main__":
    sys.exit(main("collection_ingest", measure, packages=("sqlalchemy", "psycopg", "fastapi", "uvicorn", "pydantic")))
