"""What htmx 4 sends and understands."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.web.flash import set_flash


def is_htmx(request: Request) -> bool:
    """True when htmx asks for a part of a page."""
    return request.headers.get("HX-Request") == "true"


def redirect(request: Request, url: str, message: str | None = None, undo_url: str | None = None) -> Response:
    """After a form: 303 for a browser, ``HX-Redirect`` for htmx, which would otherwise swap the whole page into a part of it."""
    response: Response
    if is_htmx(request):
        response = Response(status_code=200, headers={"HX-Redirect": url})
    else:
        response = RedirectResponse(url, status_code=303)
    return set_flash(response, message, undo_url) if message else response
