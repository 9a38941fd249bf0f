"""Sources: what comes in from where, API keys, feedback that waits for its output, the last imports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Path, Request, Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.access import Require, Viewer
from app.accounts.key_check import rate_limit
from app.accounts.keys import (
    DEFAULT_SCOPES,
    SCOPE_WORDS,
    create_key,
    has_ended,
    list_keys,
    revoke_key,
    rotate_key,
)
from app.core.clock import utcnow
from app.core.db import Db
from app.core.errors import InvalidError, NotFoundError, StudioError
from app.feedback.arrivals import arrivals, arrivals_of
from app.feedback.imports.words import status_words
from app.feedback.pending import OVERDUE, count_waiting, waiting_list
from app.feedback.widget import snippet
from app.models import ApiKey, Import, Project, Webhook
from app.settings import get_settings
from app.web.address import public_address
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/sources")
Watcher = Annotated[Viewer, Depends(Require("source.view"))]
KeyEditor = Annotated[Viewer, Depends(Require("key.edit"))]
SmallId = Annotated[int, Path(ge=1, le=2**31 - 1)]
Text = Annotated[str, Form()]
_ENDED_SHOWN = 5


def last_imports(db: Session, project: Project, limit: int = 20) -> Sequence[Import]:
    query = select(Import).where(Import.project_id == project.id)
    return db.scalars(query.order_by(Import.id.desc()).limit(limit)).all()


def _webhooks(db: Session, project: Project) -> tuple[int, int]:
    """All, and those switched on."""
    query = select(func.count(), func.count().filter(Webhook.is_enabled)).where(Webhook.project_id == project.id)
    row = db.execute(query).one()
    return row[0], row[1]


_BLANK = {
    "name": "",
    "expires_in_days": "365",
    "rate_per_minute": "",
    "scopes": list(DEFAULT_SCOPES),
    "pub_name": "",
    "pub_days": "",
    "pub_rate": "",
    "origins": "",
}
"""What the two forms hold at first. A publishable key stands in pages for years: it does not expire by itself."""


def _page(request: Request, db: Session, viewer: Viewer, *, status_code: int = 200, **more: Any) -> Response:
    keys = list_keys(db, viewer.project)
    ended = [key for key in keys if has_ended(key)]
    address = public_address(request)
    context = {
        "sources": arrivals(db, viewer.project, keys),
        "keys": [key for key in keys if not has_ended(key)] + ended[:_ENDED_SHOWN],
        "num_ended_more": max(len(ended) - _ENDED_SHOWN, 0),
        "has_ended": has_ended,
        "rate_limit": rate_limit,
        "snippets": {key.id: snippet(key, address) for key in keys if key.public_token and not has_ended(key)},
        "num_waiting": count_waiting(db, viewer.project),
        "num_overdue": count_waiting(db, viewer.project, OVERDUE),
        "waiting": waiting_list(db, viewer.project, limit=10),
        "imports": last_imports(db, viewer.project),
        "webhooks": _webhooks(db, viewer.project),
        "now": utcnow(),
        "status_words": status_words,
        "scope_words": SCOPE_WORDS,
        "usual": {"secret": get_settings().secret_key_rate, "publishable": get_settings().publishable_key_rate},
        "address": address,
        "token": None,
        "errors": {},
        "page_errors": {},
        "not_rotated": {},
        "typed": _BLANK,
        **more,
    }
    return render(request, "feedback/sources.html", context, status_code=status_code)


@router.get("")
def sources(request: Request, db: Db, viewer: Watcher) -> Response:
    return _page(request, db, viewer)


@router.get("/arrivals/{source_name}")
def source_card(request: Request, db: Db, viewer: Watcher, source_name: str) -> Response:
    """The card of one source again: the page asks for it while the source waits for its first rating."""
    source = arrivals_of(db, viewer.project, list_keys(db, viewer.project), source_name)
    if source is None:
        raise NotFoundError("There is no such source in this project.")
    return render(request, "feedback/_source.html", {"source": source, "arrived": source.last_at is not None})


def _whole(text: str) -> int | None:
    """None where nothing was typed, -1 (which no field takes) for what is no number."""
    plain = text.strip()
    if not plain:
        return None
    return int(plain) if plain.isascii() and plain.isdecimal() and len(plain) < 9 else -1


def _show(request: Request, db: Session, viewer: Viewer, key: ApiKey, token: str, **more: Any) -> Response:
    """The page with a key's token: in this answer and, for a secret key, nowhere else."""
    return _page(request, db, viewer, token=token, fresh=key, **more)


@router.post("/keys")
def make_key(
    request: Request,
    db: Db,
    viewer: KeyEditor,
    name: Text = "",
    expires_in_days: Text = "365",
    rate_per_minute: Text = "",
    scope: Annotated[list[str], Form()] = [],  # noqa: B006 -- FastAPI copies defaults
) -> Response:
    """The key is in this answer and nowhere else."""
    days, rate = _whole(expires_in_days), _whole(rate_per_minute)
    try:
        key, token = create_key(
            db, viewer.project, name, scope, expires_in_days=days, rate_per_minute=rate, user=viewer.user
        )
    except InvalidError as error:
        typed = {"name": name, "expires_in_days": expires_in_days, "rate_per_minute": rate_per_minute, "scopes": scope}
        return _page(request, db, viewer, status_code=422, errors=error.fields, typed={**_BLANK, **typed})
    return _show(request, db, viewer, key, token)


_PAGE_FIELDS = {"name": "pub_name", "expires_in_days": "pub_days", "rate_per_minute": "pub_rate"}


@router.post("/keys/publishable")
def make_page_key(
    request: Request,
    db: Db,
    viewer: KeyEditor,
    pub_name: Text = "",
    pub_days: Text = "",
    pub_rate: Text = "",
    origins: Text = "",
) -> Response:
    """A key for web pages, with the snippet to put into them."""
    days, rate = _whole(pub_days), _whole(pub_rate)
    try:
        key, token = create_key(
            db,
            viewer.project,
            pub_name,
            kind="publishable",
            origins=origins.split(),
            expires_in_days=days,
            rate_per_minute=rate,
            user=viewer.user,
        )
    except InvalidError as error:
        typed = {"pub_name": pub_name, "pub_days": pub_days, "pub_rate": pub_rate, "origins": origins}
        errors = {_PAGE_FIELDS.get(name, name): words for name, words in error.fields.items()}
        return _page(request, db, viewer, status_code=422, page_errors=errors, typed={**_BLANK, **typed})
    return _show(request, db, viewer, key, token)


@router.post("/keys/{key_id}/rotate")
def renew_key(request: Request, db: Db, viewer: KeyEditor, key_id: SmallId, overlap_hours: Text = "24") -> Response:
    """A new key in place of this one, which goes on for the overlap so that apps can be changed one by one."""
    hours = _whole(overlap_hours)
    try:
        key, token = rotate_key(
            db, viewer.project, key_id, overlap_hours=-1 if hours is None else hours, user=viewer.user
        )
    except NotFoundError:
        raise
    except StudioError as error:
        words = error.fields.get("overlap_hours") or f"{error.message} {error.remedy}".strip()
        return _page(
            request,
            db,
            viewer,
            status_code=error.status,
            not_rotated={"id": key_id, "typed": overlap_hours, "words": words},
        )
    return _show(request, db, viewer, key, token, overlap_hours=hours)


@router.post("/keys/{key_id}/revoke")
def end_key(request: Request, db: Db, viewer: KeyEditor, key_id: SmallId) -> Response:
    key = revoke_key(db, viewer.project, key_id, user=viewer.user)
    return redirect(request, f"/p/{viewer.project.slug}/sources", f"{key.name} is revoked.")
