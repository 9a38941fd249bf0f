from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.accounts import members
from app.accounts.service import create_project, create_user, find_user, slug_of
from app.core.db import session_scope
from app.core.errors import ConflictError, InvalidError
from app.models import AuditEntry, LoginLink, Membership, Project, Role, User

SignIn = Callable[..., TestClient]


def roles(db: Session, project: Project) -> dict[str, str]:
    return {member.user.email: member.role for member in members.members_of(db, project)}


def test_owner_makes_a_project(db: Session, factory: Any, sign_in: SignIn) -> None:
    owner = factory.user(is_owner=True)
    browser = sign_in(owner)
    assert "No projects yet" in browser.get("/projects").text
    answer = browser.post("/projects", data={"name": "  Über  Helpdesk 2 "})
    assert answer.status_code == 303
    project = db.scalars(select(Project)).one()
    assert (project.name, project.slug) == ("Über Helpdesk 2", "uber-helpdesk-2")
    assert len(project.split_salt) >= 16
    assert answer.headers["location"] == "/p/uber-helpdesk-2/"
    assert roles(db, project) == {owner.email: "owner"}
    again = browser.post("/projects", data={"name": "Uber helpdesk 2"})
    assert again.status_code == 409
    assert "Another project has this address." in again.text
    assert 'value="Uber helpdesk 2"' in again.text, "typed values stay"
    assert "Über Helpdesk 2" in browser.get("/projects").text


def test_salts_differ(db: Session) -> None:
    assert create_project(db, "One").split_salt != create_project(db, "Two").split_salt


@pytest.mark.parametrize(
    ("name", "slug"), [("日本", ""), ("", ""), ("Fine", "Not Fine"), ("Fine", "a--b"), ("x" * 101, ""), ("a\x00b", "")]
)
def test_projects_that_do_not_fit(db: Session, name: str, slug: str) -> None:
    with pytest.raises(InvalidError) as caught:
        create_project(db, name, slug)
    assert set(caught.value.fields) <= {"name", "slug"}
    assert caught.value.fields


def test_slug_of() -> None:
    assert slug_of("  Crème brûlée!! v2 ") == "creme-brulee-v2"
    assert len(slug_of("word " * 40)) <= 48


def test_a_known_address_is_refused(db: Session) -> None:
    create_user(db, "ada@example.org", "Ada")
    with pytest.raises(ConflictError, match="has an account already"):
        create_user(db, " ADA@example.org", "Another")


@pytest.fixture
def team(db: Session, factory: Any, sign_in: SignIn) -> tuple[Project, User, TestClient]:
    project = factory.project()
    owner = factory.member(project, Role.OWNER, name="Olga Owner")
    return project, owner, sign_in(owner)


def test_adding_a_new_person_shows_the_link_once(db: Session, team: tuple[Project, User, TestClient]) -> None:
    project, owner, browser = team
    form = {"email": "New@Example.org", "name": "Nora New", "role": "annotator"}
    answer = browser.post(f"/p/{project.slug}/settings/people", data=form)
    assert answer.status_code == 200
    found = re.search(r"http://testserver/start/([\w-]+)", answer.text)
    assert found
    assert roles(db, project) == {owner.email: "owner", "new@example.org": "annotator"}
    page = browser.get(f"/p/{project.slug}/settings")
    assert "Nora New" in page.text
    assert "/start/" not in page.text
    user = find_user(db, "new@example.org")
    assert user is not None
    assert user.password_hash is None
    again = browser.post(f"/p/{project.slug}/settings/people", data=form)
    assert again.status_code == 409
    assert "A member of this project already." in again.text
    relinked = browser.post(f"/p/{project.slug}/settings/people/{user.id}/link")
    newer = re.search(r"http://testserver/start/([\w-]+)", relinked.text)
    assert newer
    assert browser.get(f"/start/{found[1]}").status_code == 404, "a new link ends the old one"
    assert browser.get(f"/start/{newer[1]}").status_code == 200
    actions = list(db.scalars(select(AuditEntry.action).where(AuditEntry.project_id == project.id)))
    assert {"member.added", "member.link_made"} <= set(actions)


def test_a_known_person_is_added_without_a_link(
    db: Session, factory: Any, team: tuple[Project, User, TestClient]
) -> None:
    project, _, browser = team
    known = factory.user(name="Kim Known")
    answer = browser.post(f"/p/{project.slug}/settings/people", data={"email": known.email, "role": "lead"})
    assert answer.status_code == 303
    assert roles(db, project)[known.email] == "lead"
    assert db.scalar(select(LoginLink)) is None


def test_a_project_owner_cannot_take_over_accounts(
    db: Session, factory: Any, team: tuple[Project, User, TestClient]
) -> None:
    project, _, browser = team
    boss = factory.user(is_owner=True, name="Installation Owner")
    elsewhere = factory.member(factory.project(), Role.LEAD)  # invited there, no password yet
    settled = create_user(db, "settled@example.org", "Settled", "their own password")
    for user in (boss, elsewhere, settled):
        members.add_member(db, project, user, Role.VIEWER)
        assert browser.post(f"/p/{project.slug}/settings/people/{user.id}/link").status_code == 403
    assert db.scalar(select(LoginLink)) is None


@pytest.mark.parametrize("form", [{"email": "nobody", "role": "lead"}, {"email": "a@b.org", "role": "king"}])
def test_people_that_do_not_fit(db: Session, team: tuple[Project, User, TestClient], form: dict[str, str]) -> None:
    project, owner, browser = team
    before = len(db.scalars(select(User)).all())
    answer = browser.post(f"/p/{project.slug}/settings/people", data=form)
    assert answer.status_code == 422
    assert form["email"] in answer.text
    assert roles(db, project) == {owner.email: "owner"}
    assert len(db.scalars(select(User)).all()) == before, "no account without a membership"


def test_change_and_remove(db: Session, factory: Any, team: tuple[Project, User, TestClient]) -> None:
    project, owner, browser = team
    lee = factory.member(project, Role.VIEWER)
    url = f"/p/{project.slug}/settings/people/{lee.id}"
    assert browser.post(f"{url}/role", data={"role": "lead"}).status_code == 303
    db.expire_all()
    assert roles(db, project)[lee.email] == "lead"
    assert browser.post(f"{url}/role", data={"role": "king"}).status_code == 422
    assert browser.post(f"{url}/remove").status_code == 303
    assert roles(db, project) == {owner.email: "owner"}
    assert browser.post(f"{url}/remove").status_code == 404
    entries = db.scalars(select(AuditEntry).where(AuditEntry.subject == lee.email)).all()
    assert [entry.action for entry in entries] == ["member.role_changed", "member.removed"]
    assert entries[0].details == {"before": "viewer", "role": "lead"}


def test_the_last_owner_stays(db: Session, factory: Any, team: tuple[Project, User, TestClient]) -> None:
    project, owner, browser = team
    url = f"/p/{project.slug}/settings/people/{owner.id}"
    for path, form in (("role", {"role": "lead"}), ("remove", {})):
        answer = browser.post(f"{url}/{path}", data=form)
        assert answer.status_code == 409
        assert "This is the last owner of the project." in answer.text
    assert roles(db, project) == {owner.email: "owner"}
    second = factory.member(project, Role.OWNER)
    assert browser.post(f"{url}/remove").headers["location"] == "/projects"
    assert roles(db, project) == {second.email: "owner"}
    assert browser.get(f"/p/{project.slug}/settings").status_code == 404


def test_two_owners_cannot_remove_each_other_at_once(committed_db: Engine) -> None:
    with session_scope() as db:
        project = create_project(db, "Race")
        pair = [create_user(db, f"owner{i}@example.org", f"Owner {i}") for i in range(2)]
        for user in pair:
            members.add_member(db, project, user, Role.OWNER)
    start = threading.Barrier(2)
    refused: list[str] = []

    def remove(user: User) -> None:
        start.wait()
        try:
            with session_scope() as own:
                members.remove_member(own, project, user.id)
        except ConflictError as error:
            refused.append(error.message)

    threads = [threading.Thread(target=remove, args=(user,)) for user in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["This is the last owner of the project."]
    with session_scope() as db:
        assert len(db.scalars(select(Membership)).all()) == 1


def test_a_member_of_another_project_cannot_be_touched(
    db: Session, factory: Any, team: tuple[Project, User, TestClient]
) -> None:
    project, _, browser = team
    other = factory.project()
    stranger = factory.member(other, Role.LEAD)
    url = f"/p/{project.slug}/settings/people/{stranger.id}"
    assert browser.post(f"{url}/role", data={"role": "viewer"}).status_code == 404
    assert browser.post(f"{url}/remove").status_code == 404
    assert browser.post(f"/p/{other.slug}/settings/people/{stranger.id}/remove").status_code == 404
    assert roles(db, other) == {stranger.email: "lead"}


def test_leads_look_but_do_not_touch(db: Session, factory: Any, sign_in: SignIn) -> None:
    project = factory.project()
    lead = factory.member(project, Role.LEAD)
    browser = sign_in(lead)
    page = browser.get(f"/p/{project.slug}/settings")
    assert page.status_code == 200
    assert "owners can add people" in page.text
    answer = browser.post(f"/p/{project.slug}/settings/people", data={"email": "x@example.org", "role": "owner"})
    assert answer.status_code == 403
    assert browser.post(f"/p/{project.slug}/settings/people/{lead.id}/role", data={"role": "owner"}).status_code == 403
    assert roles(db, project) == {lead.email: "lead"}


def test_own_name(db: Session, factory: Any, sign_in: SignIn) -> None:
    user = factory.user()
    browser = sign_in(user)
    assert browser.post("/account", data={"name": ""}).status_code == 422
    assert browser.post("/account", data={"name": " Ada  M. Moss"}).status_code == 303
    db.refresh(user)
    assert user.name == "Ada M. Moss"
