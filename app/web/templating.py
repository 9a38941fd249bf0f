"""The Jinja environment and ``render``: every page comes from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from app.core.resources import resource_dir
from app.web import formats, svg
from app.web.flash import clear_flash, read_flash
from app.web.markdown import is_long, render_markdown, visible
from app.web.nav import Navigation, navigation
from app.web.static import static_url, vendor_path, vendor_url


@dataclass(frozen=True)
class Page:
    """What every template may use under the name ``page``: who looks, at which project, where."""

    user: Any = None
    project: Any = None
    role: str | None = None
    csrf_token: str = ""
    path: str = "/"
    nav: Navigation | None = None
    can: Callable[[str], bool] = lambda _permission: False


_page: ContextVar[Page | None] = ContextVar("page", default=None)


def _current() -> Page:
    return _page.get() or Page()


def csrf_field() -> Markup:
    """The hidden field of every form that posts."""
    return Markup('<input type="hidden" name="csrf_token" value="{}">').format(_current().csrf_token)


def initials(name: str) -> str:
    """From "Ines Marchetti" to "IM"; of one word its first two letters."""
    words = name.split()
    letters = words[0][0] + words[-1][0] if len(words) > 1 else name.strip()[:2]
    return letters.upper()


def can(permission: str) -> bool:
    """Whether the viewer may do this in the project on screen."""
    return _current().can(permission)


def icon(name: str, cls: str = "", label: str | None = None) -> Markup:
    """An icon of the sprite. Without ``label`` it is hidden from screen readers: the word beside it speaks."""
    spoken = Markup('role="img" aria-label="{}"').format(label) if label else Markup('aria-hidden="true"')
    drawing = Markup('<svg class="icon {}" {}><use href="{}#{}"/></svg>')
    return drawing.format(cls, spoken, vendor_url("icons.svg"), name)


@lru_cache(maxsize=1)
def environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(resource_dir("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(formats.FILTERS)
    env.filters["markdown"] = render_markdown
    env.filters["visible"] = visible
    env.filters["is_long"] = is_long
    env.globals.update(
        can=can,
        csrf_field=csrf_field,
        icon=icon,
        initials=initials,
        interval=formats.interval,
        static_url=static_url,
        svg=svg,
        vendor_path=vendor_path,
        vendor_url=vendor_url,
    )
    return env


def page_of(request: Request) -> Page:
    """Tolerates a request without a viewer: error pages before sign-in have none."""
    viewer = getattr(request.state, "viewer", None)
    project = getattr(viewer, "project_or_none", None)
    may: Callable[[str], bool] = viewer.can if viewer is not None else Page.can
    return Page(
        user=getattr(viewer, "user", None),
        project=project,
        role=getattr(viewer, "role", None),
        csrf_token=getattr(request.state, "csrf_token", ""),
        path=request.url.path,
        nav=navigation(project.slug, request.url.path, may) if project is not None else None,
        can=may,
    )


@contextmanager
def showing(page: Page) -> Iterator[None]:
    """``csrf_field``, ``can`` and the macros speak of this page."""
    token = _page.set(page)
    try:
        yield
    finally:
        _page.reset(token)


def render_to_string(request: Request, name: str, context: Mapping[str, Any] | None = None) -> str:
    """A template without a response: parts of pages in SSE messages."""
    page = page_of(request)
    names = {"flash": None, **(context or {}), "request": request, "page": page}
    with showing(page):
        return environment().get_template(name).render(names)


def render(
    request: Request,
    name: str,
    context: Mapping[str, Any] | None = None,
    *,
    status_code: int = 200,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> HTMLResponse:
    """The template ``name`` as a response, with ``page``, ``flash`` and ``request`` beside the context. A shown flash is cleared."""
    flash = read_flash(request)
    html = render_to_string(request, name, {"flash": flash, **(context or {}), **more})
    response = HTMLResponse(html, status_code=status_code, headers=dict(headers) if headers else None)
    if flash is not None and "k-flash" in html:
        clear_flash(response)
    return response
