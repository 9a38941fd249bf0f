"""A small application around the templates: a viewer without a database, the real headers and static files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from starlette.responses import Response

from app.core.errors import InvalidError
from app.web import errors
from app.web.csp import SECURITY_HEADERS
from app.web.static import StudioStatic
from app.web.styleguide import examples
from app.web.templating import render

ANNOTATOR = frozenset({"project.view", "completion.view", "rating.create"})


@dataclass(frozen=True)
class FakeViewer:
    user: Any
    project_or_none: Any
    role: str
    can: Callable[[str], bool]


def viewer(allowed: frozenset[str] | None = None, *, in_project: bool = True) -> FakeViewer:
    return FakeViewer(
        user=SimpleNamespace(name="Ines Marchetti", email="ines@example.org"),
        project_or_none=SimpleNamespace(slug="helpdesk", name="Help <desk>") if in_project else None,
        role="lead",
        can=lambda permission: allowed is None or permission in allowed,
    )


def request_for(path: str = "/p/helpdesk/runs", who: FakeViewer | None = None, **headers: str) -> Request:
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "server": ("testserver", 80),
        "scheme": "http",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "state": {"csrf_token": "token-1", **({"viewer": who} if who else {})},
    }
    return Request(scope)


def site() -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def as_browser(request: Request, call_next: Any) -> Response:
        request.state.csrf_token = "token-1"
        if "stranger" not in request.url.query:
            request.state.viewer = viewer()
        response: Response = await call_next(request)
        response.headers.update(SECURITY_HEADERS)
        return response

    @app.get("/styleguide")
    def styleguide(request: Request) -> HTMLResponse:
        return render(request, "styleguide.html", examples())

    @app.get("/invalid")
    def invalid() -> None:
        raise InvalidError("Some values do not fit.", fields={"learning_rate": "Between 1e-7 and 1e-4"})

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("a secret detail")

    app.mount("/static", StudioStatic())
    errors.install(app)
    return app
