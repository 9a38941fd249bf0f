"""Feedback links: opened by people and by mail scanners, altered, expired, changed and taken back."""

from __future__ import annotations

import base64
import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from app.accounts import redaction
from app.accounts.keys import revoke_key
from app.core.clock import utcnow
from app.core.security import csrf_token, hash_token
from app.feedback.links import Link, read_token, write_token
from app.models import ApiKey, Rating

HOSTILE = "<script>alert(1)</script>\n**Refunds** take 3 to 5 days.\u202e"


@pytest.fixture
def project(factory: Any) -> Any:
    return factory.project()


@pytest.fixture
def key(project: Any, factory: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {factory.api_key(project)}"}


@pytest.fixture
def completion(db: Any, project: Any, factory: Any) -> Any:
    row = factory.completion(project, HOSTILE)
    row.external_id = "msg-1"
    db.flush()
    return row


@pytest.fixture
def pair(client: Any, key: dict[str, str], completion: Any) -> dict[str, str]:
    answer = client.post("/api/v1/feedback/links", json={"completion_id": "msg-1", "rater": "c-81"}, headers=key)
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()
    return found


def path(url: str) -> str:
    return "/rate/" + url.rpartition("/rate/")[2]


@pytest.fixture
def confirm(client: Any) -> Any:
    """Confirms as a browser: the visitor cookie of the page and its token."""

    def act(url: str, **form: str) -> Any:
        client.get(path(url))
        token = csrf_token(hash_token(client.cookies["kto_visitor"]))
        return client.post(path(url), data={"csrf_token": token, **form})

    return act


def ratings(db: Any, project: Any) -> list[Any]:
    return list(db.scalars(select(Rating).where(Rating.project_id == project.id).order_by(Rating.id)))


def test_opening_writes_nothing_and_confirming_does(
    db: Any, project: Any, completion: Any, pair: dict[str, str], client: Any, confirm: Any
) -> None:
    for url in pair["up"], pair["down"], pair["down"]:
        page = client.get(path(url))
        assert page.status_code == 200
        client.head(path(url))
    assert ratings(db, project) == []
    assert 'value="down" checked' in page.text
    assert "&lt;script&gt;" in page.text
    assert "<script>alert" not in page.text
    assert set(client.cookies) == {"kto_visitor"}
    assert page.headers["cache-control"] == "private, no-store"
    saved = confirm(pair["down"], value="down", comment=" Too vague. ")
    assert saved.status_code == 303
    assert "Your feedback is saved" in client.get(saved.headers["location"]).text
    (row,) = ratings(db, project)
    assert (row.value, row.comment, row.source, row.rater) == (False, "Too vague.", "link", "c-81")
    assert row.completion_id == completion.id


def test_it_is_changed_and_taken_back_until_it_expires(
    db: Any, project: Any, pair: dict[str, str], client: Any, confirm: Any
) -> None:
    confirm(pair["up"], value="up", comment="Good.")
    confirm(pair["up"], value="up", comment="Good.")
    assert len(ratings(db, project)) == 1, "twice is once"
    confirm(pair["down"], value="down")
    first, second = ratings(db, project)
    assert [first.is_current, second.is_current, second.value] == [False, True, False]
    form = client.get(path(pair["up"]) + "?change=1").text
    assert 'value="down" checked' in form, "what was said last, not what the link began with"
    confirm(pair["up"], value="none")
    confirm(pair["up"], value="none")
    db.expire_all()
    assert [row.is_current for row in ratings(db, project)] == [False, False]
    assert 'value="up" checked' in client.get(path(pair["up"])).text


def test_a_post_without_the_pages_token_is_refused(db: Any, project: Any, pair: dict[str, str], client: Any) -> None:
    assert client.post(path(pair["up"]), data={"value": "up"}).status_code == 403
    assert ratings(db, project) == []


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"value": "maybe"}, "choose thumb up or thumb down"),
        ({"value": "up", "comment": "x" * 2001}, "2,001 characters"),
        ({}, "choose thumb up or thumb down"),
    ],
)
def test_what_does_not_fit_comes_back_as_typed(
    form: dict[str, str], words: str, db: Any, project: Any, pair: dict[str, str], confirm: Any
) -> None:
    answer = confirm(pair["up"], **form)
    assert answer.status_code == 422
    assert words in answer.text
    assert form.get("comment", "")[:50] in answer.text
    assert ratings(db, project) == []


def _altered(token: str) -> list[str]:
    payload, _, seal = token.partition(".")
    fields = json.loads(base64.urlsafe_b64decode(payload + "=="))
    fields[4] = "someone-else"
    other = base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode().rstrip("=")
    return [
        f"{other}.{seal}",
        f"{payload}.{seal[:-2]}AA",
        f"{payload}.",
        payload,
        f"{payload}.{seal}=",
        f"{payload}.{seal}.x",
        "." + seal,
        "é" * 10,
        "x" * 1900,
    ]


def test_an_altered_link_is_told_so_and_writes_nothing(
    db: Any, project: Any, pair: dict[str, str], client: Any, confirm: Any
) -> None:
    for token in _altered(path(pair["up"]).removeprefix("/rate/")):
        answer = client.get(f"/rate/{token}")
        assert answer.status_code == 404, token
        assert "This link is not complete." in answer.text
        assert confirm("/rate/" + token, value="up").status_code == 404
    assert ratings(db, project) == []


def test_it_ends_with_its_time_and_with_its_key(
    db: Any, project: Any, completion: Any, pair: dict[str, str], client: Any, confirm: Any
) -> None:
    link = read_token(path(pair["up"]).removeprefix("/rate/"))
    assert timedelta(hours=23.9) < link.expires_at - utcnow() <= timedelta(hours=24)
    old = write_token(Link(**{**{name: getattr(link, name) for name in Link.__slots__}, "expires_at": utcnow()}))
    assert "This link has expired." in client.get(f"/rate/{old}").text
    assert confirm(f"/rate/{old}", value="up").status_code == 404
    revoke_key(db, project, db.scalar(select(ApiKey.id).where(ApiKey.project_id == project.id)))
    assert "This link has ended." in client.get(path(pair["up"])).text
    assert confirm(pair["up"], value="up").status_code == 404
    assert ratings(db, project) == []


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"completion_id": "msg-unknown"}, 404, None),
        ({"completion_id": ""}, 422, "completion_id"),
        ({"completion_id": "msg-1", "expires_in_hours": 24 * 90 + 1}, 422, "expires_in_hours"),
        ({"completion_id": "msg-1", "expires_in_hours": 0}, 422, "expires_in_hours"),
        ({"completion_id": "msg-1", "rater": "\x00"}, 422, "rater"),
        ({"completion_id": "msg-1", "value": True}, 422, "value"),
        ({}, 422, "completion_id"),
    ],
)
def test_links_are_made_for_stored_outputs_and_in_bounds(
    body: dict[str, Any], status: int, field: str | None, client: Any, key: dict[str, str], completion: Any
) -> None:
    answer = client.post("/api/v1/feedback/links", json=body, headers=key)
    assert answer.status_code == status, answer.text
    if field:
        assert field in answer.json()["error"]["fields"]


def test_outputs_of_another_project_have_no_links(client: Any, factory: Any, completion: Any) -> None:
    other = {"Authorization": f"Bearer {factory.api_key(factory.project())}"}
    assert client.post("/api/v1/feedback/links", json={"completion_id": "msg-1"}, headers=other).status_code == 404


def test_personal_data_in_a_comment_is_taken_out(db: Any, project: Any, pair: dict[str, str], confirm: Any) -> None:
    project.settings = {"privacy": {"mode": "redact"}}
    db.flush()
    confirm(pair["up"], value="up", comment="Write to ada@example.org")
    assert ratings(db, project)[0].comment == "Write to [email]"


def test_the_token_stays_out_of_the_logs(pair: dict[str, str]) -> None:
    record = logging.LogRecord("uvicorn.access", 20, "", 0, '"%s %s"', ("GET", path(pair["up"])), None)
    redaction.HideTokens().filter(record)
    assert record.getMessage() == '"GET /rate/(hidden)"'


def test_two_links_of_one_output_are_one_rater(
    db: Any, client: Any, key: dict[str, str], completion: Any, confirm: Any
) -> None:
    for verdict in "up", "down":
        pair = client.post("/api/v1/feedback/links", json={"completion_id": "msg-1"}, headers=key).json()
        confirm(pair[verdict], value=verdict)
    query = select(func.count()).where(Rating.is_current, Rating.rater == "output:msg-1")
    assert db.scalar(query) == 1


def test_a_link_does_not_outlive_its_key(db: Any, client: Any, key: dict[str, str], completion: Any) -> None:
    row = db.scalars(select(ApiKey)).one()
    row.expires_at = utcnow() + timedelta(hours=3)
    db.flush()
    asked = {"completion_id": completion.external_id, "expires_in_hours": 48}
    answer = client.post("/api/v1/feedback/links", json=asked, headers=key)
    assert answer.status_code == 200, answer.text
    assert read_token(answer.json()["up"].rpartition("/rate/")[2]).expires_at <= row.expires_at
