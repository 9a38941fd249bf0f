"""Whatever goes wrong is told in words, with the security headers, and without what is none of the reader's business."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.orm import Session

from app import main
from app.models import Import, Role
from app.web.csp import SECURITY_HEADERS

SECRET = "hunter2-of-the-traceback"
FAILURES: dict[str, Exception] = {
    "bug": RuntimeError(SECRET),
    "missing": FileNotFoundError(2, SECRET),
    "full": OSError(errno.ENOSPC, SECRET),
    "quota": OSError(errno.EDQUOT, SECRET),
    "postgres-full": OperationalError(SECRET, {}, psycopg.errors.DiskFull(SECRET)),
    "away": OperationalError(SECRET, {}, psycopg.OperationalError(SECRET)),
    "busy": NoConnectionError(SECRET),
    "surrogate": UnicodeEncodeError("utf-8", SECRET, 0, 1, SECRET),
}
WORDS = {
    "bug": (500, "Something failed on our side"),
    "missing": (500, "Something failed on our side"),
    "full": (503, "disk is full"),
    "quota": (503, "disk is full"),
    "postgres-full": (503, "disk is full"),
    "away": (503, "The database does not answer"),
    "busy": (503, "The database does not answer"),
    "surrogate": (422, "cannot be stored"),
}


@pytest.fixture
def visitor(db: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    router = APIRouter(include_in_schema=False)

    @router.get("/fail/{name}")
    @router.get("/api/fail/{name}")
    def fail(name: str) -> None:
        raise FAILURES[name]

    monkeypatch.setattr(main, "ROUTERS", (*main.ROUTERS, router))
    app = main.create_app()
    with TestClient(app, base_url="http://testserver", follow_redirects=False, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("prefix", ["", "/api"])
def test_failures_in_words(visitor: TestClient, name: str, prefix: str) -> None:
    answer = visitor.get(f"{prefix}/fail/{name}")
    status, words = WORDS[name]
    assert answer.status_code == status
    assert words in answer.text
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/login", {}, 200),
        ("/nowhere", {}, 404),
        ("/fail/bug", {}, 500),
        ("/api/fail/bug", {}, 500),
        ("/login", {"Host": "evil.example"}, 400),
        ("/login", {"Host": ""}, 400),
        ("/p/x/runs", {}, 303),
        ("/api/v1/feedback", {}, 401),
        ("/static/css/studio.css", {}, 200),
        ("/static/nowhere.js", {}, 404),
        ("/static/../app/main.py", {}, 404),
        ("/static/%2e%2e/pyproject.toml", {}, 404),
        ("/" + "9" * 5000, {}, 414),
        ("/p/x/runs/" + "9" * 5000, {}, 414),
        ("/healthz", {}, 200),
    ],
)
def test_every_answer_carries_the_security_headers(
    visitor: TestClient, path: str, headers: dict[str, str], status: int
) -> None:
    answer = visitor.get(path, headers=headers)
    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


def test_a_body_that_is_too_large_is_refused_with_the_headers(visitor: TestClient) -> None:
    answer = visitor.post("/login", content=b"x" * 6_000_000)
    assert answer.status_code == 413
    assert answer.headers["content-security-policy"] == SECURITY_HEADERS["Content-Security-Policy"]


class FullFile:
    """Stands in for the temporary file of an upload on a full disk."""

    def __init__(self, **_: Any) -> None:
        self._rolled = True

    def write(self, _: bytes) -> None:
        raise OSError(errno.ENOSPC, SECRET)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("place", ["upload", "import"])
def test_a_full_disk_during_an_import(
    visitor: TestClient, factory: Any, db: Session, sign_in: Any, client: TestClient, place: str, monkeypatch: Any
) -> None:
    project = factory.project()
    browser = sign_in(factory.member(project, Role.LEAD))
    visitor.cookies, visitor.headers = browser.cookies, browser.headers
    if place == "upload":
        monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", FullFile)
    else:
        monkeypatch.setattr(
            "app.feedback.imports.drafts.make_draft", lambda *_, **__: (_ for _ in ()).throw(FAILURES["full"])
        )
    answer = visitor.post(f"/p/{project.slug}/sources/import", files={"file": ("f.jsonl", b"{}\n" * 9)})
    assert answer.status_code == 503, answer.text
    assert "disk is full" in answer.text
    assert SECRET not in answer.text
    assert db.scalars(select(Import)).all() == []


def test_errors_of_statements_do_not_show_their_values(db: Session) -> None:
    with pytest.raises(Exception, match="hidden due to hide_parameters") as caught, db.begin_nested():
        db.execute(text("SELECT CAST(:value AS integer)"), {"value": "a" + SECRET})
    assert "parameters" in str(caught.value)
