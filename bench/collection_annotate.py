"""Annotators at work over HTTP: one verdict and the next item per request, 1 and 16 people, 10,000 and 1,000,000 items.

    make bench NAME=collection ARGS=annotate       (QUICK=1: a tenth of the items, fewer verdicts)

The web process is the one of ``kto up``, on the bundled PostgreSQL with fsync; the generator's threads share its cores. Every
person signs in and posts verdicts as the page's script does: the answer to a verdict brings the next item, so "next item" is the
time of that whole request, commit included. Each side has its own people and a queue of one project; the queue of the large
side lies among 49 others. An item that two people were given, or a verdict that is not stored, fails the run.

Label Studio 1.23 is measured beside it in the same run, where the folder that KTO_BENCH_LABEL_STUDIO names holds it
(``python -m venv DIR && DIR/bin/pip install 'label-studio==1.23.*'``): one label per task, its default database and server;
a loop is GET next task, POST annotation, as its own page does, each again where it fails.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text

from app.accounts.sessions import cookie_name, open_login
from app.core.db import get_engine, session_scope
from app.core.security import csrf_token, hash_token
from app.feedback.queue_fill import default_queue
from app.models import AnnotationSlot, Membership, Project, Rating, Role, User
from app.serve import set_environment, web_argv
from bench.collection_fill import fill_inside
from bench.report import CannotRunError, Row, not_run, percentile, row
from bench.studio import studio

PEOPLE = 16
MUST_MS = {1: 50.0, PEOPLE: 150.0}
MUST_GROW = 1.5
MUST_TIMES = 15.0
TRIES = 20
_SLOTS = """
    INSERT INTO annotation_slots (queue_id, completion_id, number, priority)
    SELECT q.id, c.id, 0, (c.id / 7) % 60 FROM annotation_queues q JOIN completions c ON c.project_id = q.project_id
    WHERE q.project_id = ANY(:projects) ORDER BY q.id, c.id
"""


def rows(quick: bool) -> Iterator[Row]:
    factor, verdicts = (10, 150) if quick else (1, 1500)
    with studio(), _web() as port:
        small = _queues(10_000 // factor, 1)
        large = _queues(1_000_000 // factor, 50)
        p95: dict[tuple[int, int], float] = {}
        loops: list[float] = []
        for people in (1, PEOPLE):
            for size, project in ((10_000, small), (1_000_000, large)):
                taken, per_second = _work(port, project, people, verdicts // (1 if people > 1 else 3))
                told = p95[people, size] = percentile(taken, 0.95)
                name = f"verdict and next item, {people} at work, {size // factor:,} items, p95"
                yield row(name, "ms", taken, value=told, at_most=MUST_MS[people])
                yield row(f"loops, {people} at work, {size // factor:,} items", "loops/s", [per_second])
                loops += [per_second] if people > 1 else []
        for people in (1, PEOPLE):
            ratio = p95[people, 1_000_000] / p95[people, 10_000]
            yield row(f"p95 at the large / at the small size, {people} at work", "x", [ratio], at_most=MUST_GROW)
        yield from _beside_label_studio(loops, 20 if quick else 60)


def _queues(items: int, projects: int) -> int:
    """A full default queue in each of new projects; the id of the middle one."""
    ids = fill_inside(items, projects, rated=0, searchable=False)
    with session_scope() as db:
        for number in ids:
            default_queue(db, db.get_one(Project, number))
    with get_engine().begin() as connection:
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        connection.execute(text(_SLOTS), {"projects": ids})
    with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE annotation_slots"))
    return ids[len(ids) // 2]


@contextmanager
def _web() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    set_environment(KTO_HOST="127.0.0.1", KTO_PORT=str(port))
    process = subprocess.Popen([*web_argv(), "--log-level", "error", "--no-access-log"], env=dict(os.environ))
    try:
        _wait(port, "/healthz", process)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(port: int, path: str, process: subprocess.Popen[Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status < 500:
                return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise CannotRunError(f"the server at port {port} did not come up")
        time.sleep(0.2)


class Person:
    """One browser: a kept connection, a session cookie, and the slots that its page would show."""

    def __init__(self, port: int, base: str, token: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.base = base
        self.headers = {
            "Cookie": f"{cookie_name('session')}={token}",
            "X-CSRF-Token": csrf_token(hash_token(token)),
            "X-Annotate-Part": "1",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        self.slots: list[int] = []
        self.judged: list[int] = []

    def post(self, action: str, fields: list[tuple[str, Any]]) -> None:
        self.connection.request("POST", f"{self.base}/{action}", urllib.parse.urlencode(fields), self.headers)
        answer = self.connection.getresponse()
        body = answer.read().decode()
        if answer.status != 200:
            raise RuntimeError(f"{action}: {answer.status} {body[:200]}")
        self.slots += [int(piece.partition('"')[0]) for piece in body.split('data-slot="')[1:]]

    def judge(self) -> None:
        slot = self.slots.pop(0)
        have = [("have", other) for other in self.slots]
        self.post("verdict", [("slot", slot), ("value", "up" if slot % 3 else "down"), ("took_ms", 4000), *have])
        self.judged.append(slot)


def _work(port: int, project_id: int, people: int, verdicts: int) -> tuple[list[float], float]:
    """Milliseconds of each verdict, and verdicts per second of all together."""
    with session_scope() as db:
        project = db.get_one(Project, project_id)
        mark = time.time_ns()
        users = [User(email=f"p{mark}-{n}@example.org", name=f"Person {n}") for n in range(people)]
        db.add_all(users)
        db.flush()
        db.add_all(Membership(project_id=project_id, user_id=user.id, role=Role.ANNOTATOR.value) for user in users)
        tokens = [open_login(db, user) for user in users]
        base = f"/p/{project.slug}/annotate/main"
    persons = [Person(port, base, token) for token in tokens]
    for person in persons:
        person.post("claim", [])
        person.judge()
    seconds, spent = _together([person.judge for person in persons], verdicts // people)
    judged = [slot for person in persons for slot in person.judged]
    with session_scope() as db:
        ids = [user.id for user in users]
        done = db.scalar(select(func.count()).where(AnnotationSlot.done_by.in_(ids)))
        stored = db.scalar(select(func.count()).where(Rating.rater.in_([f"user:{key}" for key in ids])))
    if not len(judged) == len(set(judged)) == done == stored:
        raise RuntimeError(f"{len(judged)} verdicts sent on {len(set(judged))} items, {done} done, {stored} stored")
    for person in persons:
        person.connection.close()
    return [1000 * each for each in spent], len(spent) / seconds


def _together(acts: list[Callable[[], object]], rounds: int) -> tuple[float, list[float]]:
    """Each act ``rounds`` times in a thread of its own; the seconds of all, and of each."""
    start = threading.Barrier(len(acts) + 1)

    def repeat(act: Callable[[], object]) -> list[float]:
        start.wait()
        spent = []
        for _ in range(rounds):
            began = time.perf_counter()
            act()
            spent.append(time.perf_counter() - began)
        return spent

    with ThreadPoolExecutor(len(acts)) as pool:
        waiting = [pool.submit(repeat, act) for act in acts]
        start.wait()
        began = time.perf_counter()
        spent = [each for future in waiting for each in future.result()]
        return time.perf_counter() - began, spent


def _beside_label_studio(loops: list[float], count: int) -> Iterator[Row]:
    name = f"loops, {PEOPLE} at work / Label Studio 1.23"
    folder = os.environ.get("KTO_BENCH_LABEL_STUDIO", "")
    program = Path(folder) / "bin" / "label-studio"
    if not folder or not program.exists():
        yield not_run(f"Label Studio 1.23, loops, {PEOPLE} at work", "loops/s")
        yield not_run(name, "x", at_least=MUST_TIMES)
        return
    with _label_studio(program) as (port, token):
        theirs = _their_loops(port, token, count)
    yield row(f"Label Studio 1.23, loops, {PEOPLE} at work", "loops/s", [theirs])
    yield row(name, "x", [min(loops) / theirs], at_least=MUST_TIMES)


@contextmanager
def _label_studio(program: Path) -> Iterator[tuple[int, str]]:
    data = tempfile.mkdtemp(prefix="kto-bench-ls-")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    token = "0123456789abcdef0123456789abcdef01234567"
    environment = {
        **os.environ,
        "LABEL_STUDIO_BASE_DATA_DIR": data,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "LOG_LEVEL": "ERROR",
    }
    for key in ("DATABASE_URL", "REDIS_URL"):
        environment.pop(key, None)
    command = [str(program), "start", "--no-browser", "--port", str(port), "--internal-host", "127.0.0.1"]
    command += ["--username", "bench@example.org", "--password", "bench-bench-1", "--user-token", token]
    log = Path(data) / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        try:
            _wait(port, "/health", process, 180)
            yield port, token
        finally:
            process.terminate()
            process.wait(timeout=30)
            shutil.rmtree(data, ignore_errors=True)


CONFIG = """<View><Text name="p" value="$prompt"/><Text name="c" value="$completion"/>
<Choices name="v" toName="c" choice="single"><Choice value="up"/><Choice value="down"/></Choices></View>"""


def _their_loops(port: int, token: str, count: int) -> float:
    headers = {"Authorization": f"Token {token}", "Content-Type": "application/json"}

    def call(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> Any:
        for _ in range(TRIES):  # 16 people at once lock its database, which it answers with 500: they press again
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            found = answer.read()
            if answer.status != 500:
                break
        if answer.status == 404:
            return None
        if answer.status >= 400:
            raise CannotRunError(f"Label Studio answered {method} {path} with {answer.status}: {found[:200]!r}")
        return json.loads(found) if found else None

    first = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    project = call(first, "POST", "/api/projects/", {"title": "Bench", "label_config": CONFIG})["id"]
    tasks = [{"prompt": "word " * 40 + str(n), "completion": "word " * 180 + str(n)} for n in range(1000)]
    for low in range(0, len(tasks), 500):
        call(first, "POST", f"/api/projects/{project}/import", tasks[low : low + 500])
    result = [{"from_name": "v", "to_name": "c", "type": "choices", "value": {"choices": ["up"]}}]

    def loop(connection: http.client.HTTPConnection) -> None:
        task = call(connection, "GET", f"/api/projects/{project}/next")
        if task is not None:
            call(connection, "POST", f"/api/tasks/{task['id']}/annotations/", {"result": result, "lead_time": 4})

    people = [http.client.HTTPConnection("127.0.0.1", port, timeout=120) for _ in range(PEOPLE)]
    loop(people[0])
    seconds, spent = _together([partial(loop, connection) for connection in people], max(1, count // PEOPLE))
    return len(spent) / seconds


if __name__ == "__main__":
    from bench.report import main

    sys.exit(
        main("collection_annotate", lambda quick: list(rows(quick)), packages=("sqlalchemy", "psycopg", "uvicorn"))
    )
