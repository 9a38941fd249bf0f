"""Odd values on every route: in the address, the query and the form. Never a failure of ours, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from app.runs.forms import LaunchForm
from tests.architecture.walk import STREAM, Furnished, routes

Enter = Callable[[Any], TestClient]
ODD = (
    "",
    " ",
    "x",
    "-1",
    "0",
    "9" * 30,
    "9" * 5000,
    "1e999",
    "nan",
    "-inf",
    "٣",
    "\x00",
    "a\x00b",
    "\r\nX: 1",
    "\u202eé💥",
    "' OR 1=1 --",
    "%",
    "a" * 3000,
    "../../etc/passwd",
    "/etc/\x00",
    "~nobody-here/x",
    "//example.org",
    "{{ 7 * 7 }}",
    "<script>alert(1)</script>",
)
WORST = ("\x00", "9" * 30, "-1", "nan", "a" * 3000, "~nobody-here/x", "\u202eé💥")
"""For the many fields and queries, so that the walk stays short."""
GETS = [route for method, route in routes() if method == "GET" and route.path != STREAM]
POSTS = [route for method, route in routes() if method == "POST"]
KEEPS_THE_SESSION = [route for route in POSTS if route.path not in {"/logout", "/login", "/start/{token}"}]
PLAIN_NUMBERS = LaunchForm.model_fields.keys() - {
    "base_model",
    "snapshot_id",
    "launch_key",
    "lora_targets",
    "num_epochs",
}
"""Of the launch form, each checked in one way: odd all at once only."""
MORE_FIELDS = {"/p/{slug}/runs": LaunchForm.model_fields}  # read as a whole, so FastAPI does not know them


def names(params: list[Any]) -> list[str]:
    return [param.alias for param in params]


def fields_of(route: APIRoute) -> list[str]:
    return [*names(route.dependant.body_params), *MORE_FIELDS.get(route.path, ())]


def odd_paths(route: APIRoute, furnished: Furnished) -> list[str]:
    """One part of the path at a time is odd, the rest is real."""
    paths = []
    for name in names(route.dependant.path_params):
        for value in ODD:
            params = {**furnished.params, name: value}
            odd = Furnished(furnished.project, furnished.owner, {k: quote(v, safe="") for k, v in params.items()}, {})
            paths.append(odd.path(route.path, slug=quote(value, safe="") if name == "slug" else None))
    return paths


@pytest.fixture
def failures(enter: Enter, furnished: Furnished) -> Callable[..., list[str]]:
    browser = enter(furnished.owner)
    found: list[str] = []

    def request(method: str, path: str, **more: Any) -> list[str]:
        answer = browser.request(method, path, **more)
        if answer.status_code >= 500 or "Traceback" in answer.text[:100_000]:
            found.append(f"{answer.status_code} {method} {path[:120]} {str(more)[:200]}")
        assert answer.headers["content-security-policy"]
        return found

    return request


def test_odd_paths(failures: Callable[..., list[str]], furnished: Furnished) -> None:
    found: list[str] = []
    for method, chosen in (("GET", GETS), ("POST", KEEPS_THE_SESSION)):
        for route in chosen:
            for path in odd_paths(route, furnished):
                found = failures(method, path)
    assert found == []


def test_odd_queries(failures: Callable[..., list[str]], furnished: Furnished) -> None:
    found: list[str] = []
    for route in GETS:
        for name in [*names(route.dependant.query_params), "unknown"]:
            for value in WORST:
                found = failures("GET", f"{furnished.path(route.path)}?{urlencode({name: value})}")
    assert found == []


def test_odd_fields(failures: Callable[..., list[str]], furnished: Furnished) -> None:
    """One field at a time is odd, the others hold what a person would send."""
    found: list[str] = []
    for route in KEEPS_THE_SESSION:
        for name in [name for name in fields_of(route) if name not in PLAIN_NUMBERS]:
            for value in WORST:
                found = failures("POST", furnished.path(route.path), data={**furnished.form, name: value})
        for value in ODD:
            everything = dict.fromkeys(fields_of(route), value)
            found = failures("POST", furnished.path(route.path), data=everything)
    assert found == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"name=%00&name=%ff&slot=%ED%A0%80&reason=%F0%9F"),
        ("application/x-www-form-urlencoded; charset=utf-16", b"name=\xff\xfe&email=\xd8"),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=b", b"--b\r\nbroken"),
        (
            "multipart/form-data; boundary=b; charset=unicode_escape",
            (
                b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\\ud800\r\n'
                b'--b\r\nContent-Disposition: form-data; name="instructions"\r\n\r\n\\ud800\r\n'
                b'--b\r\nContent-Disposition: form-data; name="email"\r\n\r\na@\\ud800\r\n--b--\r\n'
            ),
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="../../x\\u0000.jsonl"\r\n\r\n\x1f\x8bbad\r\n--b--\r\n',
        ),
        ("application/json", b"[" * 20_000),
        ("application/json", b"\xff\xfe"),
        ("text/plain", b"a" * 1000),
    ],
)
def test_odd_bodies(content_type: str, body: bytes, failures: Callable[..., list[str]], furnished: Furnished) -> None:
    found: list[str] = []
    for route in POSTS:
        found = failures("POST", furnished.path(route.path), content=body, headers={"Content-Type": content_type})
    assert found == []


ODD_ITEMS: tuple[dict[str, Any], ...] = (
    {"prompt": "\ud800", "completion": "x"},
    {"prompt": "p", "completion": "\x00"},
    {"prompt": "p", "completion": "c", "label": 1e400},
    {"prompt": "p", "completion": "c", "label": True, "metadata": {"\x00": 1}},
    {"prompt": "p", "completion": "c", "label": True, "metadata": {"n": 10**4000}},
    {"prompt": "p", "completion": "c", "label": True, "occurred_at": "0001-01-01T00:00:00+23:59"},
    {"prompt": "p", "completion": "c", "label": True, "occurred_at": "9999-12-31T23:59:59-23:59"},
    {"prompt": "p", "completion": "c", "label": True, "occurred_at": 10**20},
    {"prompt": [], "completion": {}, "label": []},
    {"prompt": [{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}], "completion": "c"},
    {"prompt": "p", "completion": [{"role": "assistant", "tool_calls": [{"function": {"name": "\x00"}}]}]},
    {"\x00": 1, "\ud800": 2},
)


@pytest.mark.parametrize("item", ODD_ITEMS)
def test_odd_feedback_is_refused_and_the_rest_stays_readable(
    item: dict[str, Any], visitor: TestClient, factory: Any, db: Session
) -> None:
    key = {"Authorization": f"Bearer {factory.api_key(factory.project())}"}
    good = {"prompt": "p", "completion": "c", "label": True}
    body = json.dumps({"items": [good, item]})
    answer = visitor.post("/api/v1/feedback/batch", content=body, headers={**key, "Content-Type": "application/json"})
    assert answer.status_code in {200, 400, 422}, answer.text
    if answer.status_code == 200:
        assert answer.json()["items"][0]["status"] == "created"
        assert answer.json()["items"][1]["status"] in {"error", "created", "unchanged"}
    assert visitor.get("/api/v1/feedback", headers=key).status_code == 200
