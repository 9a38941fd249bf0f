"""The JSON API as an app sees it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from app.accounts.keys import create_key, revoke_key
from app.core.clock import utcnow
from app.core.errors import InvalidError
from app.models import ApiKey, AuditEntry, Rating

GOOD = {"prompt": "How long?", "completion": "Three days.", "label": "up", "rater": "u1"}


@pytest.fixture
def api(client, factory):
    project = factory.project()
    client.headers["Authorization"] = f"Bearer {factory.api_key(project)}"
    client.project = project
    return client


def error(response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    found: dict[str, Any] = response.json()["error"]
    return found


def test_created_then_unchanged_then_updated(api, db):
    first = api.post("/api/v1/feedback", json=GOOD)
    assert (first.status_code, first.json()["status"]) == (201, "created")
    again = api.post("/api/v1/feedback", json=GOOD)
    assert (again.status_code, again.json()["status"], again.json()["id"]) == (200, "unchanged", first.json()["id"])
    changed = api.post("/api/v1/feedback", json={**GOOD, "label": 0})
    assert (changed.status_code, changed.json()["status"]) == (200, "updated")
    assert db.scalars(select(Rating.source).distinct()).all() == ["shop"]


def test_read_back_what_was_stored(api):
    sent = {**GOOD, "category": "refunds", "model": "m1", "completion_id": "msg-1", "external_id": "fb-1",
            "conversation_id": "c1", "finish_reason": "length", "reasons": ["tone"], "comment": "Cold.",
            "metadata": {"n": 1}, "occurred_at": "2026-01-02T03:04:05Z"}  # fmt: skip
    key = api.post("/api/v1/feedback", json=sent).json()["id"]
    got = api.get(f"/api/v1/feedback/{key}").json()
    assert got["prompt"] == [{"role": "user", "content": "How long?"}]
    assert got["completion"] == [{"role": "assistant", "content": "Three days."}]
    assert got["label"] is True
    for name in sent.keys() - {"prompt", "completion", "label"}:
        assert got[name] == sent[name], name


def test_pages(api):
    api.post("/api/v1/feedback/batch", json={"items": [{**GOOD, "rater": f"u{n}"} for n in range(5)]})
    seen, cursor = [], ""
    for _ in range(3):
        page = api.get(f"/api/v1/feedback?limit=2&cursor={cursor}").json()
        seen += [item["rater"] for item in page["items"]]
        cursor = page["next_cursor"] or ""
    assert seen == ["u4", "u3", "u2", "u1", "u0"]
    assert cursor == ""
    assert api.get("/api/v1/feedback?cursor=x").status_code == 422
    assert api.get("/api/v1/feedback?limit=1000").status_code == 422


def test_a_batch_tells_each_item_by_itself(api, db):
    items = [
        GOOD,
        {**GOOD, "label": "x", "completion": ""},
        "no item",
        {**GOOD, "label": False},
        GOOD | {"rater": "u2"},
    ]
    response = api.post("/api/v1/feedback/batch", json={"items": items})
    assert response.status_code == 200
    body = response.json()
    assert [item["status"] for item in body["items"]] == ["created", "error", "error", "updated", "created"]
    assert [item["index"] for item in body["items"]] == [0, 1, 2, 3, 4]
    assert (body["created"], body["updated"], body["unchanged"], body["errors"]) == (2, 1, 0, 2)
    assert set(body["items"][1]["fields"]) == {"label", "completion"}
    assert "an item is an object" in body["items"][2]["fields"]["item"]
    assert db.scalar(select(func.count()).select_from(Rating)) == 3


@pytest.mark.parametrize("items", [[], [GOOD] * 1001, "x", None])
def test_a_batch_has_1_to_1000_items(api, items):
    response = api.post("/api/v1/feedback/batch", json={"items": items})
    assert response.status_code == 422
    assert error(response)["fields"] == {"items": "a list of 1 to 1,000 items"}


def test_bad_values_are_named(api, db):
    response = api.post("/api/v1/feedback", json={**GOOD, "label": "perhaps", "completion": "", "x": 1})
    assert response.status_code == 422
    assert set(error(response)["fields"]) == {"label", "completion", "x"}
    assert db.scalar(select(func.count()).select_from(Rating)) == 0


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b'{"a": "\xff"}', "application/json", 422),
        (b'{"prompt": "a\\ud800", "completion": "b", "label": 1}', "application/json", 422),
        (b'{"prompt": "a\\u0000", "completion": "b", "label": 1}', "application/json", 422),
        (b'{"a\\ud800": 1}', "application/json", 422),
        (b'{"prompt": "a", "completion": "b", "label": 1, "metadata": {"x": NaN}}', "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"null", "application/json", 422),
        (b"", "application/json", 422),
        (b"label=up", "application/x-www-form-urlencoded", 415),
        (json.dumps(GOOD).encode(), "text/plain", 415),
        (json.dumps(GOOD).encode(), "", 415),
    ],
)
def test_bodies_that_are_none(api, content, kind, status):
    for path in ("/api/v1/feedback", "/api/v1/feedback/batch"):
        response = api.post(path, content=content, headers={"Content-Type": kind})
        assert response.status_code == status, response.text
        assert error(response)["message"]


def test_broken_json_says_where(api):
    response = api.post("/api/v1/feedback", content=b'{"prompt": }', headers={"Content-Type": "application/json"})
    assert error(response)["fields"] == {"body": "is no JSON: expected value at line 1 column 12"}


def test_too_large(api, monkeypatch):
    from app.settings import get_settings

    monkeypatch.setattr(get_settings(), "max_request_bytes", 1000)
    response = api.post("/api/v1/feedback", json={**GOOD, "prompt": "x" * 2000})
    assert response.status_code == 413
    assert error(response)["code"] == "too_large"


def test_keys_and_scopes(client, factory, db):
    project = factory.project()
    assert client.post("/api/v1/feedback", json=GOOD).status_code == 401
    assert client.get("/api/v1/feedback", headers={"Authorization": "Bearer kto_x"}).status_code == 401
    write = {"Authorization": f"Bearer {factory.api_key(project, ('feedback:write',))}"}
    read = {"Authorization": f"Bearer {factory.api_key(project, ('feedback:read',))}"}
    assert client.post("/api/v1/feedback", json=GOOD, headers=write).status_code == 201
    refused = client.post("/api/v1/feedback", json=GOOD, headers=read)
    assert refused.status_code == 403
    assert "feedback:write" in error(refused)["message"]
    assert client.get("/api/v1/feedback", headers=write).status_code == 403
    assert client.get("/api/v1/feedback", headers=read).status_code == 200


def test_other_projects_feedback_is_not_there(api, factory):
    key = api.post("/api/v1/feedback", json=GOOD).json()["id"]
    other = {"Authorization": f"Bearer {factory.api_key(factory.project())}"}
    assert error(api.get(f"/api/v1/feedback/{key}", headers=other))["code"] == "not_found"
    assert api.get("/api/v1/feedback", headers=other).json()["items"] == []
    assert api.get("/api/v1/feedback/99999999999999999999").status_code == 422


def test_key_service(client, factory, db):
    project, user = factory.project(), factory.user()
    key, token = create_key(db, project, " Import ", ["feedback:write"], expires_in_days=7, user=user)
    assert token.startswith(key.prefix)
    assert token not in (key.key_hash, key.prefix)
    headers = {"Authorization": f"Bearer {token}"}
    assert client.post("/api/v1/feedback", json=GOOD, headers=headers).status_code == 201
    assert db.scalar(select(Rating.source)) == "api-import"
    key.expires_at = utcnow() - timedelta(seconds=1)
    db.flush()
    assert client.post("/api/v1/feedback", json=GOOD, headers=headers).status_code == 401
    key.expires_at = None
    db.flush()
    assert client.post("/api/v1/feedback", json=GOOD, headers=headers).status_code == 200
    revoke_key(db, project, key.id, user=user)
    revoke_key(db, project, key.id, user=user)
    assert client.post("/api/v1/feedback", json=GOOD, headers=headers).status_code == 401
    assert db.scalars(select(AuditEntry.action).order_by(AuditEntry.id)).all() == ["key.created", "key.revoked"]
    bad_keys: list[dict[str, Any]] = [{"name": " "}, {"scopes": []}, {"scopes": ["all"]}, {"expires_in_days": 0}]
    for bad in bad_keys:
        with pytest.raises(InvalidError) as caught:
            create_key(db, project, **{"name": "x", **bad})
        assert set(caught.value.fields) == set(bad)
    assert db.scalar(select(func.count()).select_from(ApiKey)) == 1


def test_openapi_names_every_endpoint_with_an_example(client):
    document = client.get("/api/v1/openapi.json").json()
    for path in ("/api/v1/feedback", "/api/v1/feedback/batch"):
        post = document["paths"][path]["post"]
        assert post["summary"]
        assert post["requestBody"]["content"]["application/json"]["example"]
        assert post["security"]
        assert {"401", "403", "413", "415", "422"} <= set(post["responses"])
    schema = document["paths"]["/api/v1/feedback"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    whole, thumb = (set(choice["properties"]) for choice in schema["anyOf"])
    assert {"prompt", "completion", "label", "up", "rater"} <= whole
    assert {"completion_id", "output_id", "label", "up", "rater"} <= thumb
