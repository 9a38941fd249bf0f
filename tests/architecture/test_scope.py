"""Walks all routes: as a member of another project, in each role, as nobody, without a CSRF token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from app.accounts.access import PERMISSIONS, Require
from app.core.security import csrf_token, hash_token
from app.feedback.queue_fill import DEFAULT_QUEUE, default_queue
from app.models import Role
from tests.architecture.walk import STREAM, Furnished, routes, sizes

Enter = Callable[[Any], TestClient]
PROJECT_ROUTES = [(method, route) for method, route in routes() if "{slug}" in route.path]
ROW_ROUTES = [(method, route) for method, route in PROJECT_ROUTES if route.path.count("{") > 1]


def permission_of(route: APIRoute) -> str:
    def calls(dependant: Dependant) -> Iterator[object]:
        for child in dependant.dependencies:
            yield child.call
            yield from calls(child)

    return next(call.permission for call in calls(route.dependant) if isinstance(call, Require))


def ask(browser: TestClient, furnished: Furnished, slug: str, found: list[tuple[str, APIRoute]]) -> dict[str, int]:
    """Route -> status of its answer, with the ids of ``furnished`` in the project ``slug``."""
    return {
        f"{method} {route.path}": browser.request(
            method, furnished.path(route.path, slug), data=furnished.form if method == "POST" else None
        ).status_code
        for method, route in found
    }


def test_a_stranger_gets_404_everywhere(db: Session, factory: Any, enter: Enter, furnished: Furnished) -> None:
    browser = enter(factory.member(factory.project(), Role.OWNER))
    before = sizes(db)
    answers = ask(browser, furnished, furnished.project.slug, PROJECT_ROUTES)
    assert {name: status for name, status in answers.items() if status != 404} == {}
    assert sizes(db) == before
    assert len(answers) > 50


def test_rows_of_another_project_are_not_found_in_the_own_one(
    db: Session, factory: Any, enter: Enter, furnished: Furnished
) -> None:
    mine = factory.project()
    browser = enter(factory.member(mine, Role.OWNER))
    before = sizes(db)
    answers = ask(browser, furnished, mine.slug, ROW_ROUTES)
    assert {name: status for name, status in answers.items() if status != 404} == {}
    assert sizes(db) == before


@pytest.mark.parametrize(
    ("method", "path", "names", "status"),
    [
        ("POST", "/versions", ("checkpoint_id",), 404),
        ("POST", "/runs", ("snapshot_id", "base_model", "launch_key"), 422),
        ("POST", f"/annotate/{DEFAULT_QUEUE}/verdict", ("slot", "value"), 404),
        ("GET", "/runs/new?clone={run_id}", (), 404),
    ],
)
def test_forms_take_no_rows_of_another_project(
    method: str,
    path: str,
    names: tuple[str, ...],
    status: int,
    db: Session,
    factory: Any,
    enter: Enter,
    furnished: Furnished,
) -> None:
    mine = factory.project()
    default_queue(db, mine)
    browser = enter(factory.member(mine, Role.OWNER))
    before = sizes(db)
    form = {name: furnished.form[name] for name in names}
    answer = browser.request(method, f"/p/{mine.slug}{path.format(**furnished.params)}", data=form or None)
    assert answer.status_code == status, answer.text
    assert sizes(db) == before


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ANNOTATOR])
def test_roles(role: Role, db: Session, factory: Any, enter: Enter, furnished: Furnished) -> None:
    browser = enter(factory.member(furnished.project, role))
    before = sizes(db)
    refused = [item for item in PROJECT_ROUTES if role not in PERMISSIONS[permission_of(item[1])]]
    answers = ask(browser, furnished, furnished.project.slug, refused)
    assert {name: status for name, status in answers.items() if status != 403} == {}
    assert len(answers) > 20
    assert sizes(db) == before
    open_pages = [
        item for item in PROJECT_ROUTES if item not in refused and item[0] == "GET" and item[1].path != STREAM
    ]
    answers = ask(browser, furnished, furnished.project.slug, open_pages)
    assert {name: status for name, status in answers.items() if status not in {200, 303}} == {}


def test_viewers_post_nothing_and_annotators_only_ratings() -> None:
    for method, route in PROJECT_ROUTES:
        if method == "POST":
            allowed = PERMISSIONS[permission_of(route)]
            assert Role.VIEWER not in allowed, route.path
            assert (Role.ANNOTATOR in allowed) == (permission_of(route) in {"rating.create", "ab.vote"}), route.path


def test_nobody_is_sent_to_sign_in(db: Session, visitor: TestClient, furnished: Furnished) -> None:
    before = sizes(db)
    visitor.headers["X-CSRF-Token"] = visitor_token(visitor)
    answers = ask(visitor, furnished, furnished.project.slug, PROJECT_ROUTES)
    assert {name: status for name, status in answers.items() if status != 303} == {}
    assert visitor.get(f"/p/{furnished.project.slug}/runs").headers["location"].startswith("/login?")
    assert sizes(db) == before


def visitor_token(browser: TestClient) -> str:
    browser.get("/login")
    return csrf_token(hash_token(browser.cookies["kto_visitor"]))


@pytest.mark.parametrize("token", [None, "", "0" * 64, "é"])
def test_a_post_without_the_browsers_token_changes_nothing(
    token: str | None, db: Session, enter: Enter, furnished: Furnished
) -> None:
    browser = enter(furnished.owner)
    del browser.headers["X-CSRF-Token"]
    if token is not None:
        furnished.form["csrf_token"] = token
    before = sizes(db)
    posts = [item for item in PROJECT_ROUTES if item[0] == "POST"]
    answers = ask(browser, furnished, furnished.project.slug, posts)
    assert {name: status for name, status in answers.items() if status != 403} == {}
    assert sizes(db) == before
