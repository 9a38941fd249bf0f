"""The stream: replay after an id, following, the end; polling says the same."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from sqlalchemy import insert

from app.core.clock import utcnow
from app.core.db import get_engine, new_session
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
    bench.db.flush()
    return run


@pytest.fixture
def url(bench: Bench) -> str:
    return f"/p/{bench.project.slug}/runs"


def test_a_final_run_is_replayed_whole_and_the_stream_ends(bench, sign_in, url):
    run = finished_run(bench)
    sent = read_stream(sign_in(bench.lead), f"{url}/{run.id}/events")
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


def test_nothing_is_sent_twice_after_the_last_id(bench, sign_in, url):
    run = finished_run(bench)
    client = sign_in(bench.lead)
    sent = read_stream(client, f"{url}/{run.id}/events")
    third = next(item["id"] for item in sent if item["type"] == "metrics" and item["data"]["step"] == 3)
    for rest in (
        read_stream(client, f"{url}/{run.id}/events", **{"Last-Event-ID": third}),
        read_stream(client, f"{url}/{run.id}/events?after={third}"),
        read_stream(client, f"{url}/{run.id}/events?after=1", **{"Last-Event-ID": third}),
    ):
        assert [item["data"]["step"] for item in rest if item["type"] == "metrics"] == [4, 5]
    last = sent[-2]["id"]
    assert read_stream(client, f"{url}/{run.id}/events?after={last}") == [{"type": "done", "id": None, "data": {}}]


def test_polling_says_the_same(bench, sign_in, url):
    run = finished_run(bench)
    client = sign_in(bench.lead)
    streamed = read_stream(client, f"{url}/{run.id}/events")
    polled = client.get(f"{url}/{run.id}/events.json").json()
    assert polled["done"]
    assert [(item["id"], item["type"]) for item in polled["events"]] == [
        (item["id"], item["type"]) for item in streamed[:-1]
    ]
    assert client.get(f"{url}/{run.id}/events.json?after={polled['events'][-1]['id']}").json() == {
        "events": [],
        "done": True,
    }


def test_long_histories_come_in_batches(bench, sign_in, url, monkeypatch):
    monkeypatch.setattr("app.runs.stream.BATCH", 7)
    run = finished_run(bench, steps=40)
    sent = read_stream(sign_in(bench.lead), f"{url}/{run.id}/events")
    assert [item["data"]["step"] for item in sent if item["type"] == "metrics"] == list(range(1, 41))
    assert sum(item["type"] == "done" for item in sent) == 1


def test_a_stream_ends_after_its_time(bench, sign_in, url, monkeypatch):
    monkeypatch.setattr(events, "STREAM_SECONDS", 0.2)
    monkeypatch.setattr(events, "POLL_SECONDS", 0.1)
    run = bench.launch()
    sent = read_stream(sign_in(bench.lead), f"{url}/{run.id}/events")
    assert sent
    assert "done" not in {item["type"] for item in sent}


def test_a_stream_follows_what_others_write_and_holds_no_connection(committed_db, monkeypatch):
    """Real commits on other connections; the doorbell, not the fallback, must wake it."""
    from fastapi.testclient import TestClient

    from app.accounts.sessions import cookie_name, open_login
    from app.main import create_app

    monkeypatch.setattr(events, "POLL_SECONDS", 60.0)
    db = new_session()
    bench = make_bench(db, Factory(db))
    run = bench.launch()
    token = open_login(db, bench.lead)
    lifecycle.claim(db, run.id, "gpu-1")
    db.commit()
    held: list[int] = []

    def work() -> None:
        time.sleep(1.0)
        held.append(get_engine().pool.checkedout())  # type: ignore[attr-defined]
        for step in (1, 2):
            add_metrics(db, run, step, step)
            lifecycle.ring(db, run.id)
            db.commit()
            time.sleep(0.3)
        lifecycle.finish(db, run.id, 1, RunStatus.SUCCEEDED)
        db.commit()

    thread = threading.Thread(target=work)
    with TestClient(create_app(), base_url="http://testserver") as client:
        client.cookies.set(cookie_name("session"), token)
        thread.start()
        began = time.monotonic()
        sent = read_stream(client, f"/p/{bench.project.slug}/runs/{run.id}/events")
        took = time.monotonic() - began
    thread.join()
    db.close()
    assert [item["data"]["step"] for item in sent if item["type"] == "metrics"] == [1, 2]
    assert sent[-1]["type"] == "done"
    assert took < 20
    assert held == [0]
