"""The stream: replay after an id, following, the end; polling says the same."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, insert

from app.accounts.sessions import cookie_name, open_login
from app.core.clock import utcnow
from app.core.db import get_engine, new_session
from app.main import create_app
from app.models import Run, RunEvent, RunStatus
from app.runs import events, lifecycle
from tests.factory import Factory
from tests.runs.conftest import Bench, make_bench


def add_metrics(db: Any, run: Run, first: int, last: int) -> None:
    rows = [
        {
            "run_id": run.id,
            "attempt": 1,
            "seq": step,
            "kind": "metrics",
            "step": step,
            "data": {"loss": 1 / step},
            "at": utcnow(),
        }
        for step in range(first, last + 1)
    ]
    db.execute(insert(RunEvent), rows)


def read_stream(client: Any, url: str, **headers: str) -> list[dict[str, Any]]:
    """The whole stream, which must end by itself."""
    found = []
    answer = client.get(url, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "data" in fields:
            found.append({"type": fields["event"], "id": fields.get("id"), "data": json.loads(fields["data"])})
    return found


def finished_run(bench: Bench, steps: int = 5) -> Run:
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "gpu-1")
    lifecycle.mark_running(bench.db, run.id, 1)
    add_metrics(bench.db, run, 1, steps)
    lifecycle.finish(bench.db, run.id, 1, RunStatus.SUCCEEDED)
    bench.db.commit()
    return run


@pytest.fixture
def bench(committed_db: Engine) -> Iterator[Bench]:
    """Committed: a stream begins to read while its request's own session still closes, so they cannot share a connection."""
    session = new_session()
    yield make_bench(session, Factory(session))
    session.close()


@pytest.fixture
def browser(bench: Bench) -> Iterator[TestClient]:
    """The lead's."""
    token = open_login(bench.db, bench.lead)
    bench.db.commit()
    with TestClient(create_app(), base_url="http://testserver") as client:
        client.cookies.set(cookie_name("session"), token)
        yield client


@pytest.fixture
def url(bench: Bench) -> str:
    return f"/p/{bench.project.slug}/runs"


def test_a_final_run_is_replayed_whole_and_the_stream_ends(bench, browser, url):
    run = finished_run(bench)
    sent = read_stream(browser, f"{url}/{run.id}/events")
    assert [item["data"]["step"] for item in sent if item["type"] == "metrics"] == [1, 2, 3, 4, 5]
    assert [item["type"] for item in sent][-1] == "done"
    assert {item["data"]["target"] for item in sent if item["type"] == "part"} == {
        "run-strip",
        "run-head",
        "run-facts",
        "run-checkpoints",
    }
    entries = [item["data"]["html"] for item in sent if item["type"] == "prepend"]
    assert ["Queued" in entries[0], "Starting on gpu-1, attempt 1" in entries[1], "Succeeded" in entries[-1]] == [
        True
    ] * 3


def test_nothing_is_sent_twice_after_the_last_id(bench, browser, url):
    run = finished_run(bench)
    sent = read_stream(browser, f"{url}/{run.id}/events")
    third = next(item["id"] for item in sent if item["type"] == "metrics" and item["data"]["step"] == 3)
    for rest in (
        read_stream(browser, f"{url}/{run.id}/events", **{"Last-Event-ID": third}),
        read_stream(browser, f"{url}/{run.id}/events?after={third}"),
        read_stream(browser, f"{url}/{run.id}/events?after=1", **{"Last-Event-ID": third}),
    ):
        assert [item["data"]["step"] for item in rest if item["type"] == "metrics"] == [4, 5]
    last = sent[-2]["id"]
    assert read_stream(browser, f"{url}/{run.id}/events?after={last}") == [{"type": "done", "id": None, "data": {}}]


def test_polling_says_the_same(bench, browser, url):
    run = finished_run(bench)
    streamed = read_stream(browser, f"{url}/{run.id}/events")
    polled = browser.get(f"{url}/{run.id}/events.json").json()
    assert polled["done"]
    assert [(item["id"], item["type"]) for item in polled["events"]] == [
        (item["id"], item["type"]) for item in streamed[:-1]
    ]
    assert browser.get(f"{url}/{run.id}/events.json?after={polled['events'][-1]['id']}").json() == {
        "events": [],
        "done": True,
    }


def test_long_histories_come_in_batches(bench, browser, url, monkeypatch):
    monkeypatch.setattr("app.runs.stream.BATCH", 7)
    run = finished_run(bench, steps=40)
    sent = read_stream(browser, f"{url}/{run.id}/events")
    assert [item["data"]["step"] for item in sent if item["type"] == "metrics"] == list(range(1, 41))
    assert sum(item["type"] == "done" for item in sent) == 1


def test_a_stream_ends_after_its_time(bench, browser, url, monkeypatch):
    monkeypatch.setattr(events, "STREAM_SECONDS", 0.2)
    monkeypatch.setattr(events, "POLL_SECONDS", 0.1)
    run = bench.launch()
    bench.db.commit()
    sent = read_stream(browser, f"{url}/{run.id}/events")
    assert sent
    assert "done" not in {item["type"] for item in sent}


def test_a_stream_follows_what_others_write_and_holds_no_connection(bench, browser, url, monkeypatch):
    """The doorbell, not the fallback, must wake it."""
    monkeypatch.setattr(events, "POLL_SECONDS", 60.0)
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "gpu-1")
    bench.db.commit()
    held: list[int] = []

    def work() -> None:
        time.sleep(1.0)
        held.append(get_engine().pool.checkedout())  # type: ignore[attr-defined]
        for step in (1, 2):
            add_metrics(bench.db, run, step, step)
            lifecycle.ring(bench.db, run.id)
            bench.db.commit()
            time.sleep(0.3)
        lifecycle.finish(bench.db, run.id, 1, RunStatus.SUCCEEDED)
        bench.db.commit()

    thread = threading.Thread(target=work)
    thread.start()
    began = time.monotonic()
    sent = read_stream(browser, f"{url}/{run.id}/events")
    took = time.monotonic() - began
    thread.join()
    assert [item["data"]["step"] for item in sent if item["type"] == "metrics"] == [1, 2]
    assert sent[-1]["type"] == "done"
    assert took < 20
    assert held == [0]
