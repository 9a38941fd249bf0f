"""Outputs in batches, and waiting feedback that another transaction missed."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from app.core.clock import utcnow
from app.core.db import session_scope
from app.feedback.pending import count_waiting, waiting_list
from app.feedback.schemas import parse_item, parse_thumb
from app.feedback.service import ingest, join_missed
from app.models import AnnotationSlot, Completion, CompletionSubject, PendingFeedback, Project, Rating

FULL = {
    "prompt": [{"role": "user", "content": "How long?"}],
    "completion": "Three days.",
    "model": "m1",
    "sampling": {"temperature": 0.7, "seed": 3},
    "finish_reason": "stop",
    "category": "refunds",
    "conversation_id": "c1",
    "external_id": "msg-1",
    "subject": "customer-81",
    "metadata": {"release": "9"},
}


@pytest.fixture
def api(client, factory):
    project = factory.project()
    client.headers["Authorization"] = f"Bearer {factory.api_key(project)}"
    client.project = project
    return client


def test_everything_is_stored_and_waits_for_annotation(api, db):
    first = api.post("/api/v1/completions/batch", json={"items": [FULL]})
    assert first.status_code == 200
    assert (first.json()["created"], first.json()["items"][0]["status"]) == (1, "created")
    assert api.post("/api/v1/completions/batch", json=[FULL]).json()["unchanged"] == 1
    row = db.scalars(select(Completion)).one()
    assert (row.model, row.sampling, row.finish_reason, row.external_id, row.extra) == (
        "m1", {"temperature": 0.7, "seed": 3}, "stop", "msg-1", {"release": "9"}
    )  # fmt: skip
    assert (row.prompt.category, row.prompt.conversation_id) == ("refunds", "c1")
    assert db.execute(select(CompletionSubject.subject, CompletionSubject.completion_id)).one() == (
        "customer-81",
        row.id,
    )
    assert db.scalars(select(AnnotationSlot.completion_id)).all() == [row.id]


def test_each_item_by_itself(api, db):
    call = {"id": "c1", "type": "function", "function": {"name": "track", "arguments": "{}"}}
    items = [
        FULL,
        FULL | {"completion": [{"role": "assistant", "content": None, "tool_calls": [call]}], "external_id": "msg-2"},
        FULL | {"completion": "Else."},
        FULL | {"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        FULL | {"label": True},
        FULL | {"sampling": {"a": "x" * 8001}},
        {"completion": "x"},
    ]
    body = api.post("/api/v1/completions/batch", json={"items": items}).json()
    assert [item["status"] for item in body["items"]] == ["created", "created"] + ["error"] * 5
    wrong = [set(item["fields"]) for item in body["items"][2:]]
    assert wrong == [{"external_id"}, {"prompt"}, {"label"}, {"sampling"}, {"prompt"}]
    assert "image_url parts are not supported" in body["items"][3]["fields"]["prompt"]
    assert db.scalar(select(func.count()).select_from(Completion)) == 2


@pytest.mark.parametrize("items", [[], [FULL] * 1001, "x", None])
def test_1_to_1000_items(api, items):
    response = api.post("/api/v1/completions/batch", json={"items": items})
    assert response.status_code == 422
    assert response.json()["error"]["fields"] == {"items": "a list of 1 to 1,000 items"}


def test_feedback_in_the_batch_that_brings_its_output(api, db):
    items = [
        {"completion_id": "msg-1", "rater": "u1", "up": True},
        {"prompt": "How?", "completion": "So.", "completion_id": "msg-1"},
    ]
    body = api.post("/api/v1/feedback/batch", json=items).json()
    assert [item["status"] for item in body["items"]] == ["created", "created"]
    assert body["pending"] == 0


def test_a_file_joins_too_and_sources_stay(db, factory):
    project = factory.project()
    for source in ("shop", "app"):
        ingest(db, project, [parse_thumb({"completion_id": "msg-1", "rater": "u", "up": True})], source)
    item = parse_item({"prompt": "How?", "completion": "So.", "completion_id": "msg-1"})
    assert ingest(db, project, [item], "import", from_file=True)[0].status == "created"
    assert set(db.scalars(select(Rating.source))) == {"shop", "app"}


def test_overdue_feedback_is_listed(db, factory):
    project, other = factory.project(), factory.project()
    for name, where in (("a", project), ("b", project), ("c", other)):
        ingest(db, where, [parse_thumb({"completion_id": name, "rater": "u", "up": True})], "shop")
    row = db.scalars(select(PendingFeedback).where(PendingFeedback.completion_external_id == "a")).one()
    row.created_at = utcnow() - timedelta(days=8)
    db.flush()
    assert [each.completion_external_id for each in waiting_list(db, project)] == ["a"]
    assert (count_waiting(db, project), count_waiting(db, other)) == (2, 1)


def test_feedback_and_output_that_miss_each_other_are_joined_later(committed_db):
    """Both transactions are open at once, so neither sees the other's row."""
    with session_scope() as db:
        db.add(Project(slug="p", name="P", split_salt="s"))
    stored, go = threading.Event(), threading.Event()

    def thumb() -> None:
        with session_scope() as db:
            project = db.scalars(select(Project)).one()
            result = ingest(db, project, [parse_thumb({"completion_id": "msg-1", "rater": "u", "up": False})], "shop")
            assert result[0].status == "pending"
            stored.set()
            assert go.wait(20)

    other = threading.Thread(target=thumb)
    other.start()
    assert stored.wait(20)
    with session_scope() as db:
        item = parse_item({"prompt": "How?", "completion": "So.", "completion_id": "msg-1"})
        ingest(db, db.scalars(select(Project)).one(), [item], "shop")
    go.set()
    other.join()
    with session_scope() as db:
        assert db.scalar(select(func.count()).select_from(Rating)) == 0
        assert join_missed(db) == 1
    with session_scope() as db:
        assert db.execute(select(Rating.rater, Rating.value)).one() == ("u", False)
        assert db.scalar(select(func.count()).select_from(PendingFeedback)) == 0
        assert join_missed(db) == 0
