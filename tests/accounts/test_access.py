"""The guards, on small routes of their own and against a table written out by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import main
from app.accounts.access import PERMISSIONS, KeyHolder, Require, RequireKey, Viewer
from app.core.clock import utcnow
from app.core.security import hash_token
from app.models import ApiKey, LoginSession, Role

SignIn = Callable[..., TestClient]

MAY = {
    Role.OWNER: set(PERMISSIONS),
    Role.LEAD: set(PERMISSIONS) - {"people.edit", "project.create", "gate.edit", "privacy.edit", "privacy.erase"},
    Role.ANNOTATOR: {"account.view", "project.view", "completion.view", "rating.create", "ab.vote"},
    Role.VIEWER: {
        "account.view",
        "project.view",
        "completion.view",
        "source.view",
        "snapshot.view",
        "run.view",
        "evaluation.view",
        "suite.view",
        "version.view",
        "monitoring.view",
        "worker.view",
    },
}
changed: list[str] = []


def guarded_router() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    for permission in PERMISSIONS:

        def change(viewer: Viewer = Depends(Require(permission))) -> dict[str, str]:
            changed.append(viewer.user.email)
            return {"role": str(viewer.role)}

        router.add_api_route(f"/p/{{slug}}/try/{permission}", change, methods=["POST"])

    @router.get("/api/v1/try")
    def read(holder: Annotated[KeyHolder, Depends(RequireKey("feedback:read"))]) -> dict[str, str]:
        return {"project": holder.project.slug}

    return router


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(main, "ROUTERS", (*main.ROUTERS, guarded_router()))
    changed.clear()
    yield
    changed.clear()


@pytest.fixture
def browser(guarded: None, client: TestClient) -> TestClient:
    return client


@pytest.mark.parametrize("role", list(Role))
def test_what_each_role_may_do(browser: TestClient, factory: Any, sign_in: SignIn, role: Role) -> None:
    project = factory.project()
    sign_in(factory.member(project, role))
    answers = {name: browser.post(f"/p/{project.slug}/try/{name}").status_code for name in PERMISSIONS}
    assert {name for name, status in answers.items() if status == 200} == MAY[role]
    assert set(answers.values()) <= {200, 403}


def test_an_owner_of_the_installation_may_do_everything_everywhere(
    browser: TestClient, factory: Any, sign_in: SignIn
) -> None:
    project = factory.project()
    sign_in(factory.user(is_owner=True))
    assert all(browser.post(f"/p/{project.slug}/try/{name}").status_code == 200 for name in PERMISSIONS)


def test_strangers_do_not_learn_which_projects_exist(browser: TestClient, factory: Any, sign_in: SignIn) -> None:
    project, other = factory.project(), factory.project()
    sign_in(factory.member(other, Role.OWNER))
    missing = browser.post("/p/none-such/try/run.launch")
    assert browser.post("/p/a%00b/try/run.launch").status_code == 404
    hidden = browser.post(f"/p/{project.slug}/try/run.launch")
    assert (missing.status_code, hidden.status_code) == (404, 404)
    words = "There is no such project, or you are not a member of it."
    assert words in missing.text
    assert words in hidden.text
    assert not changed


def test_nobody_signed_in_is_sent_to_sign_in(browser: TestClient, factory: Any) -> None:
    answer = browser.post(f"/p/{factory.project().slug}/try/run.launch")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert not changed


def test_state_changes_need_this_browsers_token(
    browser: TestClient, db: Session, factory: Any, sign_in: SignIn
) -> None:
    project = factory.project()
    sign_in(factory.member(project, Role.OWNER))
    url = f"/p/{project.slug}/try/run.launch"
    good = browser.headers.pop("X-CSRF-Token")
    other_session = hash_token("someone else's")
    from app.core.security import csrf_token

    for headers, form in (
        ({}, {}),
        ({"X-CSRF-Token": ""}, {}),
        ({"X-CSRF-Token": "0" * 64}, {}),
        ({"X-CSRF-Token": csrf_token(other_session)}, {}),
        ({}, {"csrf_token": "0" * 64}),
        ({}, {"csrf_token": "ü"}),
    ):
        answer = browser.post(url, headers=headers, data=form)
        assert answer.status_code == 403
        assert "Nothing was changed." in answer.text
    assert browser.post(url, json={"csrf_token": good}).status_code == 403, "JSON carries it in the header only"
    assert not changed
    assert browser.post(url, data={"csrf_token": good}).status_code == 200
    assert browser.post(url, headers={"X-CSRF-Token": good}).status_code == 200
    assert len(changed) == 2


def test_a_removed_member_loses_access_at_once(browser: TestClient, db: Session, factory: Any, sign_in: SignIn) -> None:
    from app.accounts.members import remove_member

    project = factory.project()
    user = factory.member(project, Role.LEAD)
    sign_in(user)
    url = f"/p/{project.slug}/try/run.launch"
    assert browser.post(url).status_code == 200
    remove_member(db, project, user.id)
    assert browser.post(url).status_code == 404
    assert db.scalar(select(LoginSession)) is not None, "the account itself stays signed in"


def call(browser: TestClient, header: str | None) -> Any:
    return browser.get("/api/v1/try", headers={"Authorization": header} if header else {})


def test_api_keys(browser: TestClient, db: Session, factory: Any) -> None:
    project = factory.project()
    token = factory.api_key(project)
    assert call(browser, f"Bearer {token}").json() == {"project": project.slug}
    assert call(browser, f"bearer  {token}").status_code == 200
    row = db.scalars(select(ApiKey)).one()
    db.refresh(row)
    assert row.last_used_at is not None
    assert token not in (row.key_hash, row.prefix)
    for header in (None, token, "Bearer", "Basic abc", f"Bearer {token}x", f"Bearer {row.key_hash}"):
        answer = call(browser, header)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "not_signed_in"


def test_api_key_scope(browser: TestClient, factory: Any) -> None:
    token = factory.api_key(factory.project(), scopes=("feedback:write",))
    answer = call(browser, f"Bearer {token}")
    assert answer.status_code == 403
    assert "feedback:read" in answer.json()["error"]["message"]


@pytest.mark.parametrize("field", ["expires_at", "revoked_at"])
def test_api_keys_end(browser: TestClient, db: Session, factory: Any, field: str) -> None:
    token = factory.api_key(factory.project())
    row = db.scalars(select(ApiKey)).one()
    row.expires_at = utcnow() + timedelta(hours=1)
    db.flush()
    assert call(browser, f"Bearer {token}").status_code == 200
    setattr(row, field, utcnow() - timedelta(seconds=1))
    db.flush()
    assert call(browser, f"Bearer {token}").status_code == 401


def test_a_page_cookie_is_no_api_key(browser: TestClient, factory: Any, sign_in: SignIn) -> None:
    sign_in(factory.user(is_owner=True))
    assert call(browser, None).status_code == 401
