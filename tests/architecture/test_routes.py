"""Every route says who may use it, and no GET changes state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.accounts.access import PERMISSIONS, SAFE_METHODS, Public, Require, RequireKey, submitted_csrf
from app.main import create_app
from tests.architecture.walk import routes

ROOT = Path(__file__).resolve().parents[2]
WRITES = re.compile(
    r"\b(db|session)\.(add|add_all|delete|flush|commit)\(|\benqueue\(|\.(launch|freeze|promote|ingest)\("
)


def api_routes() -> list[APIRoute]:
    return list({id(route): route for _, route in routes()}.values())


def calls(dependant: Dependant) -> Iterator[object]:
    for child in dependant.dependencies:
        yield child.call
        yield from calls(child)


ROUTES = [pytest.param(route, id=f"{'|'.join(sorted(route.methods or ()))} {route.path}") for route in api_routes()]


def test_there_are_routes() -> None:
    assert len(ROUTES) > 65
    assert any(route.path == "/p/{slug}/annotate" for route in api_routes()), "routers inside routers are walked too"


def test_the_documentation_lists_exactly_the_api() -> None:
    document = create_app().openapi()
    expected = {route.path_format for route in api_routes() if route.path.startswith("/api/")} - {"/api/v1/docs"}
    assert set(document["paths"]) == expected
    assert {scheme["scheme"] for scheme in document["components"]["securitySchemes"].values()} == {"bearer"}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["security"], path
            assert {"401", "403"} <= set(operation["responses"]), path
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorOut"), (path, status)


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_has_a_guard(route: APIRoute) -> None:
    guards = [call for call in calls(route.dependant) if isinstance(call, Require | RequireKey | Public)]
    assert len(guards) == 1, "one of Require, RequireKey, Public"
    if isinstance(guards[0], Require):
        assert guards[0].permission in PERMISSIONS


@pytest.mark.parametrize("route", ROUTES)
def test_state_changes_check_csrf_or_a_key(route: APIRoute) -> None:
    if (route.methods or set()) <= SAFE_METHODS:
        return
    found = list(calls(route.dependant))
    assert submitted_csrf in found or any(isinstance(call, RequireKey) for call in found)


@pytest.mark.parametrize("route", ROUTES)
def test_project_routes_are_guarded_by_membership(route: APIRoute) -> None:
    if "{slug}" in route.path:
        assert any(isinstance(call, Require) for call in calls(route.dependant))


def test_permissions_are_all_used() -> None:
    used = {call.permission for route in api_routes() for call in calls(route.dependant) if isinstance(call, Require)}
    templates = "\n".join(path.read_text() for path in (ROOT / "templates").rglob("*.html"))
    unused = {name for name in PERMISSIONS if name not in used and f'"{name}"' not in templates}
    assert not unused


@pytest.mark.parametrize("route", ROUTES)
def test_no_get_handler_writes(route: APIRoute) -> None:
    import inspect

    if "GET" in (route.methods or ()):
        assert not WRITES.search(inspect.getsource(route.endpoint)), "a GET must not change state"
