"""The short way to the single thumb answers as the long one does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.models import Rating
from app.web.shortcut import Shortcut
from tests.factory import Factory

PATH = "/api/v1/feedback"
THUMB = {"prompt": "How?", "completion": "So.", "label": True, "rater": "ada"}
OTHER = {"X-Other": "1"}
"""A header that nobody expects: such a request takes the long way."""


@pytest.fixture
def key(factory: Factory) -> dict[str, str]:
    return {"Authorization": f"Bearer {factory.api_key(factory.project())}"}


@pytest.mark.parametrize(
    ("body", "more", "status"),
    [
        (THUMB, {}, 200),
        ({**THUMB, "label": "maybe"}, {}, 422),
        ([], {}, 422),
        (THUMB, {"Authorization": "Bearer kto_none"}, 401),
        (THUMB, {"Authorization": ""}, 401),
        (THUMB, {"Content-Type": "text/plain"}, 415),
        (THUMB, {"Host": "evil.example.org"}, 400),
        (THUMB, {"Host": "127.0.0.1:x"}, 400),
    ],
)
def test_both_ways_answer_alike(
    client: Any, db: Session, key: dict[str, str], body: Any, more: dict[str, str], status: int
) -> None:
    assert client.post(PATH, json=THUMB, headers=key).status_code == 201
    short = client.post(PATH, json=body, headers={**key, **more})
    long = client.post(PATH, json=body, headers={**key, **more, **OTHER})
    assert (short.status_code, long.status_code) == (status, status)
    assert short.content == long.content
    changing = {"ratelimit"}
    assert {k: v for k, v in short.headers.items() if k not in changing} == {
        k: v for k, v in long.headers.items() if k not in changing
    }
    assert set(short.headers) == set(long.headers)
    assert db.scalar(select(func.count()).select_from(Rating)) == 1


def scope(**changes: Any) -> dict[str, Any]:
    headers = {"host": "127.0.0.1:8000", "content-type": "application/json", "content-length": "2"}
    headers |= changes.pop("headers", {})
    raw = [(name.encode(), value.encode()) for name, value in headers.items() if value]
    return {"type": "http", "path": PATH, "method": "POST", "headers": raw, **changes}


@pytest.mark.parametrize(
    ("asked", "short"),
    [
        (scope(), True),
        (scope(headers={"authorization": "Bearer x", "user-agent": "curl"}), True),
        (scope(headers={"cookie": "kto_session=x"}), False),
        (scope(headers={"origin": "https://shop.example.org"}), False),
        (scope(headers={"idempotency-key": "1"}), False),
        (scope(headers={"content-length": "", "transfer-encoding": "chunked"}), False),
        (scope(headers={"content-length": "9" * 9}), False),
        (scope(headers={"content-encoding": "gzip"}), False),
        (scope(headers={"host": "elsewhere.example.org"}), False),
        (scope(method="GET"), False),
        (scope(path=PATH + "/batch"), False),
        ({"type": "lifespan"}, False),
    ],
)
def test_only_the_ordinary_goes_short(configured: None, asked: dict[str, Any], short: bool) -> None:
    went: list[str] = []

    async def long_way(_scope: Scope, _receive: Receive, _send: Send) -> None:
        went.append("long")

    async def endpoint(_request: Request) -> Response:
        went.append("short")
        return Response()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}"}

    async def send(_message: Message) -> None:
        return

    asyncio.run(Shortcut(long_way, PATH, endpoint)(asked, receive, send))
    assert went == ["short" if short else "long"]
