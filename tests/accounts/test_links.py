from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.accounts.links import NewAccount, accept_link, first_start_needed, make_link
from app.accounts.service import create_user
from app.accounts.sessions import cookie_name
from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.errors import ConflictError, NotFoundError
from app.core.security import csrf_token, hash_token, verify_password
from app.models import AuditEntry, LoginLink, LoginSession, User

PASSWORD = "correct horse battery"
OWNER = {"name": "Ada Moss", "email": "Ada@Example.org", "password": PASSWORD, "confirm": PASSWORD}


def post(client: TestClient, token: str, form: dict[str, str]) -> Any:
    client.get(f"/start/{token}")
    visitor = client.cookies[cookie_name("visitor")]
    return client.post(f"/start/{token}", data={**form, "csrf_token": csrf_token(hash_token(visitor))})


def test_first_start_makes_the_owner(db: Session, client: TestClient) -> None:
    assert first_start_needed(db)
    assert "Nobody has an account yet" in client.get("/login").text
    token = make_link(db, "first_start")
    page = client.get(f"/start/{token}")
    assert page.status_code == 200
    assert "Make the owner" in page.text
    answer = post(client, token, OWNER)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    owner = db.scalars(select(User)).one()
    assert (owner.email, owner.is_owner) == ("ada@example.org", True)
    assert verify_password(PASSWORD, owner.password_hash)
    assert str(owner.password_hash).startswith("$argon2id$")
    assert client.get("/projects").status_code == 200
    assert not first_start_needed(db)
    client.cookies.clear()
    assert client.get(f"/start/{token}").status_code == 404
    actions = set(db.scalars(select(AuditEntry.action)))
    assert {"user.created", "link.used", "user.signed_in"} <= actions


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "short", "confirm": "short"}, "At least 12 characters."),
        ({"confirm": "something else"}, "The two passwords differ."),
        ({"email": "nobody"}, "Write it like name@example.org."),
        ({"name": "  "}, "Write 1 to 100 characters."),
    ],
)
def test_a_form_that_does_not_fit_leaves_the_link_good(
    db: Session, client: TestClient, change: dict[str, str], words: str
) -> None:
    token = make_link(db, "first_start")
    answer = post(client, token, {**OWNER, **change})
    assert answer.status_code == 422
    assert words in answer.text
    assert PASSWORD not in answer.text
    assert first_start_needed(db)
    assert post(client, token, OWNER).status_code == 303


def test_looking_at_a_link_changes_nothing(db: Session, client: TestClient) -> None:
    token = make_link(db, "sign_in", create_user(db, "demo@localhost", "Demo"))
    for _ in range(3):
        assert "Sign in as Demo" in client.get(f"/start/{token}").text
    assert db.scalars(select(LoginLink)).one().used_at is None
    assert db.scalar(select(LoginSession)) is None
    assert post(client, token, {}).status_code == 303
    assert db.scalars(select(LoginSession)).one().user.email == "demo@localhost"
    client.cookies.clear()
    assert client.get(f"/start/{token}").status_code == 404
    assert "was used already or has expired" in client.get(f"/start/{token}").text


def test_csrf_is_needed(db: Session, client: TestClient) -> None:
    token = make_link(db, "first_start")
    for given in ("", "0" * 64):
        assert client.post(f"/start/{token}", data={**OWNER, "csrf_token": given}).status_code == 403
    assert first_start_needed(db)
    assert db.scalars(select(LoginLink)).one().used_at is None


def test_links_expire_and_a_new_one_ends_the_old(db: Session, client: TestClient) -> None:
    old = make_link(db, "first_start")
    token = make_link(db, "first_start", hours=2)
    assert client.get(f"/start/{old}").status_code == 404
    link = db.scalars(select(LoginLink)).one()
    assert timedelta(hours=1) < link.expires_at - utcnow() <= timedelta(hours=2)
    assert link.token_hash == hash_token(token) != token
    link.expires_at = utcnow() - timedelta(seconds=1)
    db.flush()
    assert client.get(f"/start/{token}").status_code == 404
    with pytest.raises(NotFoundError):
        accept_link(db, token, NewAccount(**OWNER))


def test_an_invitation_sets_the_password_and_ends_old_sessions(
    db: Session, client: TestClient, sign_in: Callable[..., TestClient]
) -> None:
    user = create_user(db, "lee@example.org", "Lee", "the old password")
    sign_in(user)
    client.cookies.clear()
    client.headers.pop("X-CSRF-Token")
    token = make_link(db, "invite", user)
    assert post(client, token, {"password": PASSWORD, "confirm": PASSWORD}).status_code == 303
    db.refresh(user)
    assert verify_password(PASSWORD, user.password_hash)
    assert len(db.scalars(select(LoginSession)).all()) == 1


def test_no_second_owner_by_link(db: Session) -> None:
    token = make_link(db, "first_start")
    create_user(db, "someone@example.org", "Someone")
    with pytest.raises(ConflictError):
        accept_link(db, token, NewAccount(**OWNER))


@pytest.mark.parametrize("same_link", [True, False])
def test_one_of_many_at_once_wins(committed_db: Engine, same_link: bool) -> None:
    with session_scope() as db:
        token = make_link(db, "first_start")
        tokens = [token] * 6
        if not same_link:  # as when several servers each printed a link at the same moment
            tokens = [f"link-{number}" for number in range(6)]
            for name in tokens:
                expires = utcnow() + timedelta(hours=1)
                db.add(LoginLink(token_hash=hash_token(name), purpose="first_start", expires_at=expires))
    start = threading.Barrier(6)
    outcomes: list[str] = []

    def accept(number: int) -> None:
        start.wait()
        try:
            with session_scope() as own:
                form = {**OWNER, "email": f"owner{number}@example.org"}
                accept_link(own, tokens[number], NewAccount(**form))
            outcomes.append("made")
        except (NotFoundError, ConflictError) as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=accept, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lost = "not_found" if same_link else "conflict"
    assert sorted(outcomes) == sorted(["made", *[lost] * 5])
    with session_scope() as db:
        assert len(db.scalars(select(User)).all()) == 1
