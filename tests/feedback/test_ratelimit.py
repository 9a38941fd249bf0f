"""The rate per key: counted in Redis, told in headers, refused in the product's words, and no reason to fail without Redis."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest
from sqlalchemy import func, select

from app.accounts.keys import create_key
from app.core import ratelimit
from app.core.ids import content_hash
from app.core.redis import get_redis
from app.models import Rating

ITEM = {"prompt": "How?", "completion": "So.", "label": "up"}


@pytest.fixture
def name(request: pytest.FixtureRequest, configured: None) -> str:
    own = "test:" + content_hash([request.node.nodeid])[:20]
    get_redis().delete("kto:rate:" + own)
    return own


@pytest.fixture
def send(db: Any, factory: Any, client: Any) -> Any:
    project = factory.project()
    _, token = create_key(db, project, "server", rate_per_minute=3)

    def act(item: Any = ITEM, **more: Any) -> Any:
        return client.post("/api/v1/feedback", json=item, headers={"Authorization": f"Bearer {token}"}, **more)

    return act


def test_a_window_counts_down_and_then_refuses(name: str) -> None:
    found = [ratelimit.take(name, 3) for _ in range(5)]
    assert [(one.remaining, one.allowed) for one in found if one] == [
        (2, True),
        (1, True),
        (0, True),
        (0, False),
        (0, False),
    ]
    assert all(one and 1 <= one.reset_seconds <= 60 for one in found)
    assert 0 < get_redis().pttl("kto:rate:" + name) <= 60_000


def test_the_async_form_counts_in_the_same_window(name: str) -> None:
    async def twice() -> list[Any]:
        return await asyncio.gather(*(ratelimit.take_async(name, 10) for _ in range(4)))

    ratelimit.take(name, 10)
    assert sorted(one.remaining for one in asyncio.run(twice())) == [5, 6, 7, 8]
    assert sorted(one.remaining for one in asyncio.run(twice())) == [1, 2, 3, 4], "another loop has its own connections"


def test_a_lost_script_is_sent_again(name: str) -> None:
    get_redis().script_flush()
    assert ratelimit.take(name, 3).remaining == 2  # type: ignore[union-attr]
    assert ratelimit.take(name, 3).remaining == 1  # type: ignore[union-attr]


def test_a_count_without_an_end_gets_one(name: str) -> None:
    get_redis().set("kto:rate:" + name, 2)
    ratelimit.take(name, 3)
    assert get_redis().pttl("kto:rate:" + name) > 0


def test_headers_on_every_answer_and_429_beyond(send: Any, db: Any) -> None:
    first = send()
    assert first.status_code == 201
    assert first.headers["RateLimit-Policy"] == '"key";q=3;w=60'
    assert re.fullmatch(r'"key";r=2;t=\d+', first.headers["RateLimit"])
    assert "Retry-After" not in first.headers
    refused = send({"prompt": 1})
    assert refused.status_code == 422
    assert '"key";r=1' in refused.headers["RateLimit"]
    send()
    before = db.scalar(select(func.count()).select_from(Rating))
    beyond = send({**ITEM, "completion": "Other."})
    assert beyond.status_code == 429
    assert int(beyond.headers["Retry-After"]) == int(beyond.headers["RateLimit"].rpartition("=")[2])
    error = beyond.json()["error"]
    assert error["code"] == "rate_limited"
    assert "Nothing was stored" in error["message"]
    assert "3 requests in 60 s" in error["fields"]["key"]
    assert error["remedy"]
    assert db.scalar(select(func.count()).select_from(Rating)) == before


def test_without_redis_everything_goes_on_and_it_is_said_once(
    send: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import redis

    away = redis.Redis(unix_socket_path="/nonexistent/redis.sock")
    monkeypatch.setattr(ratelimit, "_client", lambda: away)
    monkeypatch.setattr(ratelimit, "_away_until", 0.0)
    monkeypatch.setattr(ratelimit, "_PAUSE_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING, "app.core.ratelimit"):
        answers = [send() for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200, 201}
    assert "RateLimit" not in answers[0].headers
    assert len([record for record in caplog.records if "Redis is away" in record.getMessage()]) == 1
    monkeypatch.undo()
    assert send().headers["RateLimit"].startswith('"key";r=2')


def test_too_large_not_json_and_not_fitting_are_told_in_one_shape(send: Any, client: Any, factory: Any) -> None:
    token = factory.api_key(factory.project())
    key = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    large = client.post("/api/v1/feedback", content=b"[" + b" " * (5 * 2**20) + b"]", headers=key)

    def parts() -> Any:
        for _ in range(6):
            yield b" " * 2**20

    streamed = client.post("/api/v1/feedback", content=parts(), headers=key)
    for answer in (large, streamed):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"
        assert "larger than 5 MiB" in answer.json()["error"]["message"]
        assert "body" in answer.json()["error"]["fields"]
    plain = client.post("/api/v1/feedback", content=b"x", headers={**key, "Content-Type": "text/plain"})
    assert plain.status_code == 415
    assert plain.json()["error"]["code"] == "unsupported_media"
    assert "application/json" in plain.json()["error"]["fields"]["content-type"]
    odd = client.post("/api/v1/feedback", json={**ITEM, "label": "maybe"}, headers=key)
    assert odd.status_code == 422
    assert set(odd.json()["error"]["fields"]) == {"label"}
    broken = client.post("/api/v1/feedback", content=b"{", headers=key)
    assert broken.status_code == 422
    assert "no JSON" in broken.json()["error"]["fields"]["body"]
