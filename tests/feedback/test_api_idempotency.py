"""The same request again within a day: one piece of work, one answer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from app.accounts.keys import create_key
from app.core.clock import utcnow
from app.core.db import session_scope
from app.feedback.idempotency import forget_old
from app.models import Completion, IdempotencyKey, Project, Rating

GOOD = {"prompt": "How long?", "completion": "Three days.", "label": "up", "rater": "u1", "completion_id": "msg-1"}
OUTPUT = {"prompt": "How long?", "completion": "Three days.", "external_id": "msg-1"}
PAIR = {
    "request": {"messages": [{"role": "user", "content": "Hi"}]},
    "response": {"id": "r1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes"}}]},
}
WRITES = [
    ("POST", "/api/v1/feedback", GOOD),
    ("PUT", "/api/v1/feedback/shop/fb-1", {"completion_id": "later", "rater": "u1", "up": True}),
    ("POST", "/api/v1/feedback/batch", [GOOD]),
    ("POST", "/api/v1/completions/batch", [OUTPUT]),
    ("POST", "/api/v1/completions/openai", PAIR),
    ("POST", "/api/v1/otel/v1/traces", {"resourceSpans": []}),
]


@pytest.fixture
def api(client, factory):
    client.headers["Authorization"] = f"Bearer {factory.api_key(factory.project())}"
    return client


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_every_write_is_answered_as_before(api, method, path, body):
    headers = {"Idempotency-Key": "k 1"}
    first = api.request(method, path, json=body, headers=headers)
    assert first.status_code < 300, first.text
    assert "Idempotency-Replayed" not in first.headers
    again = api.request(method, path, json=body, headers=headers)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    reordered = json.dumps(body, indent=1).encode()
    replay = api.request(method, path, content=reordered, headers={**headers, "Content-Type": "application/json"})
    assert replay.headers["Idempotency-Replayed"] == "true", "blanks are no other body"
    other = [body] if isinstance(body, dict) else [*body, *body]
    refused = api.request(method, path, json=other, headers=headers)
    assert refused.status_code in {409, 422}
    if refused.status_code == 409:
        assert "Idempotency-Key" in refused.json()["error"]["fields"]


def test_a_delete_is_answered_as_before(api):
    headers = {"Idempotency-Key": "k"}
    for replayed in (None, "true"):
        gone = api.delete("/api/v1/feedback/shop/fb-1", headers=headers)
        assert (gone.status_code, gone.headers.get("Idempotency-Replayed")) == (204, replayed)
    assert api.delete("/api/v1/feedback/shop/fb-2", headers=headers).status_code == 409


def test_a_request_that_failed_is_not_remembered(api):
    headers = {"Idempotency-Key": "k"}
    assert api.post("/api/v1/feedback", json={**GOOD, "label": "x"}, headers=headers).status_code == 422
    assert api.post("/api/v1/feedback", json=GOOD, headers=headers).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb"])
def test_keys_that_do_not_fit(api, key):
    for method, path, body in WRITES:
        response = api.request(method, path, json=body, headers={"Idempotency-Key": key})
        assert response.status_code == 422, path
        assert "Idempotency-Key" in response.json()["error"]["fields"]


def test_keys_are_each_sources_own(api, factory, db):
    project = db.scalars(select(Project)).one()
    _, token = create_key(db, project, "other", ["feedback:write"])
    headers = {"Idempotency-Key": "1"}
    assert api.post("/api/v1/feedback", json=GOOD, headers=headers).status_code == 201
    headers["Authorization"] = f"Bearer {token}"
    assert api.post("/api/v1/feedback", json={**GOOD, "label": "down"}, headers=headers).status_code == 201


def test_after_a_day_a_key_is_free(api, db):
    headers = {"Idempotency-Key": "k"}
    api.post("/api/v1/feedback", json=GOOD, headers=headers)
    db.execute(update(IdempotencyKey).values(created_at=utcnow() - timedelta(hours=25)))
    assert api.post("/api/v1/feedback", json={**GOOD, "rater": "u2"}, headers=headers).status_code == 201
    db.execute(update(IdempotencyKey).values(created_at=utcnow() - timedelta(hours=25)))
    forget_old(db)
    assert db.scalar(select(func.count()).select_from(IdempotencyKey)) == 0


@pytest.mark.parametrize("path", ["/api/v1/feedback", "/api/v1/feedback/batch"])
def test_duplicates_at_once_get_one_answer(committed_db, path):
    from app.main import create_app

    with session_scope() as db:
        project = Project(slug="p", name="P", split_salt="s")
        db.add(project)
        db.flush()
        _, token = create_key(db, project, "shop", ["feedback:write"])
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k"}
    body = {key: value for key, value in GOOD.items() if key not in {"rater", "completion_id"}}
    with TestClient(create_app(), base_url="http://testserver") as api, ThreadPoolExecutor(8) as pool:
        sent = [body] if path.endswith("batch") else body
        answers = list(pool.map(lambda _: api.post(path, json=sent, headers=headers), range(8)))
    assert {answer.status_code for answer in answers} == {200 if path.endswith("batch") else 201}
    assert len({json.dumps(answer.json(), sort_keys=True) for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7
    with session_scope() as db:
        assert [db.scalar(select(func.count()).select_from(table)) for table in (Completion, Rating)] == [1, 1]
