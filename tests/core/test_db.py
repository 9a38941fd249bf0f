"""A 2xx is durable, and what is to happen after the commit happens after the commit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, event, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts.sessions import cookie_name, open_login
from app.core.db import SessionFactory, after_commit, new_session, session_scope
from app.core.security import csrf_token, hash_token
from app.main import create_app
from app.models import Project, Prompt, Rating, User
from tests.factory import Factory


class StopError(Exception):
    pass


def test_actions_run_after_the_commit_and_not_at_savepoints(committed_db: Engine) -> None:
    done: list[str] = []
    with session_scope() as db:
        after_commit(db, lambda: done.append("before"))
        with db.begin_nested():
            after_commit(db, lambda: done.append("inside"))
        db.execute(select(1))
        assert done == []
    assert done == ["before", "inside"]


def test_a_savepoint_that_rolls_back_takes_only_its_own_actions_along(committed_db: Engine) -> None:
    done: list[str] = []
    with session_scope() as db:
        after_commit(db, lambda: done.append("kept"))

        def fail() -> None:
            with db.begin_nested():
                with db.begin_nested():
                    after_commit(db, lambda: done.append("released, then undone"))
                raise StopError

        with pytest.raises(StopError):
            fail()
        after_commit(db, lambda: done.append("later"))
    assert done == ["kept", "later"]


def test_a_rollback_drops_the_actions(committed_db: Engine) -> None:
    done: list[str] = []

    def fail() -> None:
        with session_scope() as db:
            after_commit(db, lambda: done.append("never"))
            raise StopError

    with pytest.raises(StopError):
        fail()
    with session_scope() as db:
        db.execute(select(1))
    assert done == []


def test_rows_stay_readable_after_a_flush_that_failed(committed_db: Engine) -> None:
    with session_scope() as db:
        Factory(db).project("Helpdesk")
    seen: list[Project] = []

    def fail() -> None:
        with session_scope() as db:
            seen.append(db.scalars(select(Project)).one())
            db.add(Project(slug=seen[0].slug, name="Twice", split_salt="s"))
            db.flush()

    with pytest.raises(IntegrityError):
        fail()
    assert seen[0].name == "Helpdesk"


@pytest.fixture
def lost_at_commit(committed_db: Engine) -> Iterator[list[bool]]:
    """While its list holds True, the server ends each connection that is about to commit."""
    active: list[bool] = []

    def cut(session: Session) -> None:
        if active:
            session.flush()
            with committed_db.connect() as other:
                other.execute(
                    text("SELECT pg_terminate_backend(:pid)"),
                    {"pid": session.scalar(select(func.pg_backend_pid()))},
                )

    event.listen(SessionFactory, "before_commit", cut)
    yield active
    event.remove(SessionFactory, "before_commit", cut)


@pytest.fixture
def browser(lost_at_commit: list[bool]) -> Iterator[TestClient]:
    with TestClient(create_app(), base_url="http://testserver", follow_redirects=False) as client:
        yield client


def test_the_answer_waits_for_the_commit(browser: TestClient, lost_at_commit: list[bool]) -> None:
    with new_session() as db:
        make = Factory(db)
        user, key = make.user(name="Ada Moss"), make.api_key(make.project())
        token = open_login(db, user)
        db.commit()
    browser.cookies.set(cookie_name("session"), token)
    headers = {"X-CSRF-Token": csrf_token(hash_token(token))}
    item: dict[str, Any] = {"prompt": "How?", "completion": "So.", "label": True}
    lost_at_commit.append(True)
    page = browser.post("/account", data={"name": "New Name"}, headers=headers)
    sent = browser.post("/api/v1/feedback", json=item, headers={"Authorization": f"Bearer {key}"})
    lost_at_commit.clear()
    assert (page.status_code, sent.status_code) == (503, 503)
    assert "The database does not answer" in page.text
    assert sent.json()["error"]["code"] == "unavailable"
    with new_session() as db:
        assert db.scalars(select(User.name)).all() == ["Ada Moss"]
        assert db.scalar(select(func.count()).select_from(Rating)) == 0
        assert db.scalar(select(func.count()).select_from(Prompt)) == 0
    assert browser.post("/account", data={"name": "New Name"}, headers=headers).status_code == 303
    with new_session() as db:
        assert db.scalars(select(User.name)).all() == ["New Name"]
