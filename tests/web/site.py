"""A small application around the templates: a viewer without a database, the real headers and static files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from starlette.responses import Response

from app.core.errors import InvalidError
from app.web import errors
from app.web.csp import SECURITY_HEADERS
from app.web.static import StudioStatic
from app.web.styleguide import examples
from app.web.templating import environment, page_of, render, showing

ANNOTATOR = frozenset({"project.view", "completion.view", "rating.create"})


LIVE_PAGE = """{% extends "layouts/app.html" %}{% from "components/charts.html" import chart_scripts, live_word %}
{% block title %}Live{% endblock %}{% block head %}{{ chart_scripts() }}{% endblock %}
{% block content %}<div data-live="/{{ stream }}" data-live-poll="/poll" id="out">nothing yet</div>{{ live_word("not yet") }}
<button type="button" hx-post="/echo" hx-target="#answer" id="echo">Echo</button><p id="answer"></p>
<button type="button" hx-post="/refuse" hx-target="#answer" id="refuse">Refuse</button>{% endblock %}"""


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


def from_source(source: str, request: Request, **context: Any) -> str:
    """A template given as text, rendered as ``render`` does."""
    page = page_of(request)
    with showing(page):
        return environment().from_string(source).render(page=page, request=request, flash=None, **context)


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

    @app.get("/live/{stream}")
    def live(request: Request, stream: str) -> HTMLResponse:
        return HTMLResponse(from_source(LIVE_PAGE, request, stream=stream))

    @app.get("/good")
    def good(after: str = "") -> StreamingResponse:
        part = json.dumps({"target": "out", "html": f"<b>part after {after or 'nothing'}</b>"})
        return StreamingResponse(iter([f"id: 7\nevent: part\ndata: {part}\n\n"]), media_type="text/event-stream")

    @app.get("/poll")
    def poll(after: str = "") -> dict[str, Any]:
        data = {"target": "out", "html": "<b>polled</b>"}
        return {"events": [{"id": "1", "type": "part", "data": data}], "done": after == "1"}

    @app.post("/echo")
    def echo(request: Request) -> HTMLResponse:
        return HTMLResponse(f"<i>{request.headers.get('x-csrf-token')}</i>")

    @app.post("/refuse")
    def refuse() -> None:
        raise InvalidError("Some values do not fit.")

    app.mount("/static", StudioStatic())
    errors.install(app)
    return app
