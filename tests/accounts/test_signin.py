from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts import signin
from app.accounts.redaction import HideTokens
from app.accounts.service import create_user
from app.accounts.sessions import cookie_name, find_login, open_login
from app.accounts.signin import local_path
from app.core.clock import utcnow
from app.core.redis import get_redis
from app.core.security import csrf_token, hash_token, verify_password
from app.models import LoginSession, Role, User

PASSWORD = "correct horse battery"
SignIn = Callable[..., TestClient]


@pytest.fixture
def person(db: Session) -> User:
    return create_user(db, "Ada@Example.org ", "Ada Moss", PASSWORD)


@pytest.fixture(autouse=True)
def _no_old_tries(configured: None) -> Iterator[None]:
    get_redis.cache_clear()
    get_redis().flushdb()
    yield
    get_redis().flushdb()


def fresh_csrf(client: TestClient) -> str:
    """As a page would carry it: from the visitor cookie that the first answer sets."""
    client.get("/login")
    return csrf_token(hash_token(client.cookies[cookie_name("visitor")]))


def try_login(client: TestClient, password: str = PASSWORD, email: str = "ada@example.org", target: str = "") -> Any:
    token = fresh_csrf(client)
    return client.post("/login", data={"email": email, "password": password, "next": target, "csrf_token": token})


def num_sessions(db: Session) -> int:
    return db.scalar(select(func.count()).select_from(LoginSession)) or 0


def test_sign_in_and_out(db: Session, client: TestClient, person: User) -> None:
    answer = try_login(client, target="/account?tab=1")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/account?tab=1"
    token = client.cookies[cookie_name("session")]
    cookie = next(line for line in answer.headers.get_list("set-cookie") if "kto_session" in line)
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    row = db.scalars(select(LoginSession)).one()
    assert row.token_hash == hash_token(token) != token
    page = client.get("/account")
    assert page.status_code == 200
    assert "ada@example.org" in page.text
    assert client.get("/login").headers["location"] == "/"
    out = client.post("/logout", data={"csrf_token": csrf_token(hash_token(token))})
    assert out.headers["location"] == "/login"
    assert num_sessions(db) == 0
    assert client.get("/account").headers["location"] == "/login?next=/account"


def test_the_session_and_its_csrf_token_rotate(db: Session, client: TestClient, person: User) -> None:
    before = fresh_csrf(client)
    visitor = client.cookies[cookie_name("visitor")]
    try_login(client)
    assert cookie_name("visitor") not in client.cookies
    first = client.cookies[cookie_name("session")]
    assert first != visitor
    assert client.post("/account", data={"name": "Mallory", "csrf_token": before}).status_code == 403
    own = csrf_token(hash_token(first))
    again = client.post("/login", data={"email": person.email, "password": PASSWORD, "csrf_token": own})
    assert again.status_code == 303
    assert client.cookies[cookie_name("session")] != first
    assert find_login(db, first) is None, "the old session is closed"
    assert num_sessions(db) == 1


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("ada@example.org", "wrong password!"),
        ("nobody@example.org", PASSWORD),
        ("", ""),
        ("ada@example.org", "x" * 5000),
        ("ada\x00@example.org", PASSWORD),
    ],
)
def test_each_failure_looks_the_same(
    db: Session, client: TestClient, person: User, email: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[str | None] = []

    def counted(given: str, hashed: str | None) -> bool:
        work.append(hashed)
        return verify_password(given, hashed)

    monkeypatch.setattr(signin, "verify_password", counted)
    answer = try_login(client, password, email)
    assert answer.status_code == 422
    assert "The address or the password is wrong." in answer.text
    assert len(work) == 1, "an unknown address costs one hash as well"
    assert num_sessions(db) == 0


def test_an_invited_or_closed_account_cannot_sign_in(db: Session, client: TestClient, person: User) -> None:
    create_user(db, "new@example.org", "New", None)
    assert try_login(client, "", "new@example.org").status_code == 422
    assert try_login(client, PASSWORD, "new@example.org").status_code == 422
    person.is_active = False
    db.flush()
    assert try_login(client).status_code == 422


def test_a_closed_account_loses_its_sessions(db: Session, factory: Any, sign_in: SignIn) -> None:
    user = factory.user(is_owner=True)
    browser = sign_in(user)
    assert browser.get("/account").status_code == 200
    user.is_active = False
    db.flush()
    assert browser.get("/account").status_code == 303


def test_sessions_expire(db: Session, factory: Any, sign_in: SignIn) -> None:
    browser = sign_in(factory.user(is_owner=True))
    row = db.scalars(select(LoginSession)).one()
    assert timedelta(days=13) < row.expires_at - utcnow() < timedelta(days=15)
    row.expires_at = utcnow() - timedelta(seconds=1)
    db.flush()
    assert browser.get("/account").headers["location"] == "/login?next=/account"


def test_guesses_are_limited_and_success_forgets_them(client: TestClient, person: User) -> None:
    for _ in range(9):
        assert try_login(client, "wrong password!").status_code == 422
    assert try_login(client).status_code == 303
    client.cookies.clear()
    for _ in range(10):
        assert try_login(client, "wrong password!").status_code == 422
    blocked = try_login(client)
    assert blocked.status_code == 429
    assert "Try again in 15 minutes." in blocked.text
    assert try_login(client, PASSWORD, "other@example.org").status_code == 422, "another address is not blocked"


def test_without_redis_people_still_get_in(
    client: TestClient, person: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away = redis.Redis(host="127.0.0.1", port=1, socket_connect_timeout=0.2)
    monkeypatch.setattr(signin, "get_redis", lambda: away)
    with caplog.at_level(logging.WARNING):
        assert try_login(client).status_code == 303
    assert "sign-ins are not limited" in caplog.text
    away.close()


def test_csrf_missing_or_wrong(db: Session, client: TestClient, person: User) -> None:
    fresh_csrf(client)
    for token in ("", "0" * 64):
        answer = client.post("/login", data={"email": person.email, "password": PASSWORD, "csrf_token": token})
        assert answer.status_code == 403
        assert "Nothing was changed." in answer.text
    assert num_sessions(db) == 0


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/p/x/runs?a=1", "/p/x/runs?a=1"),
        ("", "/"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/login?next=/login", "/"),
    ],
)
def test_next_stays_on_this_site(target: str, path: str) -> None:
    assert local_path(target) == path


def test_password_change_closes_every_session(db: Session, client: TestClient, person: User) -> None:
    stolen = open_login(db, person)
    try_login(client)
    csrf = csrf_token(hash_token(client.cookies[cookie_name("session")]))
    form = {"current": "wrong", "password": "a new long password", "confirm": "a new long password", "csrf_token": csrf}
    refused = client.post("/account/password", data=form)
    assert refused.status_code == 422
    assert "This is not the current password." in refused.text
    short = client.post(
        "/account/password", data={**form, "current": PASSWORD, "password": "short", "confirm": "other"}
    )
    assert "At least 12 characters." in short.text
    assert "The two passwords differ." in short.text
    assert find_login(db, stolen) is not None
    done = client.post("/account/password", data={**form, "current": PASSWORD})
    assert done.status_code == 303
    assert find_login(db, stolen) is None
    assert client.get("/account").status_code == 200, "this browser got a new session"
    client.cookies.clear()
    assert try_login(client).status_code == 422
    assert try_login(client, "a new long password").status_code == 303


def test_https_makes_host_cookies(
    db: Session, client: TestClient, person: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.settings import get_settings

    monkeypatch.setattr(get_settings(), "public_url", "https://testserver")
    client.base_url = "https://testserver"
    page = client.get("/login")
    visitor = page.headers["set-cookie"]
    assert visitor.startswith("__Host-kto_visitor=")
    answer = try_login(client)
    assert answer.status_code == 303
    cookies = answer.headers.get_list("set-cookie")
    session = next(line for line in cookies if line.startswith("__Host-kto_session="))
    for cookie in (visitor, session):
        assert "; Path=/" in cookie
        assert "; Secure" in cookie
        assert "; HttpOnly" in cookie
        assert "Domain" not in cookie
    client.cookies.set("kto_session", client.cookies["__Host-kto_session"])
    del client.cookies["__Host-kto_session"]
    assert client.get("/account").status_code == 303, "the plain name is not read"


def test_nothing_secret_in_logs(
    db: Session, client: TestClient, person: User, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="app"):
        try_login(client, "wrong password!")
        try_login(client)
    token = client.cookies[cookie_name("session")]
    assert "A sign-in failed" in caplog.text
    for secret in (PASSWORD, "wrong password!", token, str(person.password_hash)):
        assert secret not in caplog.text


def test_one_time_links_are_hidden_in_the_access_log(client: TestClient) -> None:
    access = logging.getLogger("uvicorn.access")
    assert any(isinstance(known, HideTokens) for known in access.filters), "create_app installs it"
    args = ("127.0.0.1:1", "GET", "/start/SECRET-token_1?x=1", "1.1", 200)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', args, None)
    assert access.filter(record)
    assert record.getMessage() == '127.0.0.1:1 - "GET /start/(hidden)?x=1 HTTP/1.1" 200'


def test_an_owner_without_projects_and_a_person_in_none(db: Session, factory: Any, sign_in: SignIn) -> None:
    browser = sign_in(factory.user())
    page = browser.get("/projects")
    assert page.status_code == 200
    assert "An owner adds you to a project" in page.text
    assert browser.get("/account").status_code == 200
    assert browser.post("/projects", data={"name": "Mine"}).status_code == 403
    assert Role.OWNER.value in browser.post("/projects", data={"name": "Mine"}).text
