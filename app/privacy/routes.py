"""Settings, privacy: what is looked for at the border, how long texts are kept, whose are erased."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import Response

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError
from app.core.pagination import int_cursor
from app.feedback import pii
from app.privacy import erasing, service, stored
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/settings/privacy", include_in_schema=False)
Watcher = Annotated[Viewer, Depends(Require("privacy.view"))]
Editor = Annotated[Viewer, Depends(Require("privacy.edit"))]
Eraser = Annotated[Viewer, Depends(Require("privacy.erase"))]
Text = Annotated[str, Form()]
Several = Annotated[list[str], Form()]
SAMPLE = "Write to jane.doe@example.com or call +1 415 555 2671. Card 4111 1111 1111 1111, order 2024-000123."


@router.get("")
def privacy_page(request: Request, db: Db, viewer: Watcher, before: Annotated[str, Query()] = "") -> Response:
    return _page(request, db, viewer, before=before)


@router.post("")
def save(
    request: Request,
    db: Db,
    viewer: Editor,
    mode: Text = "",
    kinds: Several = [],  # noqa: B006 -- FastAPI copies it
    regions: Text = "",
    retention_days: Text = "",
) -> Response:
    typed: dict[str, Any] = {"mode": mode, "kinds": kinds, "regions": regions, "retention_days": retention_days}
    try:
        service.save_settings(db, viewer.project, user=viewer.user, **typed)
    except InvalidError as error:
        return _page(request, db, viewer, status=error.status, errors=error.fields, form=typed)
    return redirect(request, _url(viewer), "Saved. It holds for what comes in from now on.")


@router.post("/try")
def try_out(
    request: Request,
    db: Db,
    viewer: Watcher,
    text: Text = "",
    kinds: Several = [],  # noqa: B006
    regions: Text = "",
) -> Response:
    """Nothing of it is stored."""
    return _page(
        request, db, viewer, tried=service.try_out(text, kinds, regions), tried_kinds=kinds, tried_regions=regions
    )


@router.post("/scan")
def scan(request: Request, db: Db, viewer: Editor) -> Response:
    stored.ask(db, viewer.project)
    return redirect(request, _url(viewer), "The search has begun. Findings appear here as it goes on.")


@router.post("/preview")
def preview(request: Request, db: Db, viewer: Eraser, kind: Text = "", who: Text = "") -> Response:
    """The name is on this answer only: it is never in an address or a log."""
    try:
        return _page(request, db, viewer, preview=service.preview(db, viewer.project, kind, who))
    except InvalidError as error:
        typed = {"kind": kind, "who": who}
        return _page(request, db, viewer, status=error.status, erase_errors=error.fields, asked=typed)


@router.post("/erase")
def erase(request: Request, db: Db, viewer: Eraser, kind: Text = "", who: Text = "", sure: Text = "") -> Response:
    errors = {} if sure == "1" else {"sure": "Say that you have read what goes"}
    if kind not in service.ASKABLE:
        errors["kind"] = "rater, subject or completion"
    try:
        if errors:
            raise InvalidError("Nothing was erased.", fields=errors)
        erasure = erasing.request(db, viewer.project, kind, who, viewer.user)
    except InvalidError as error:
        typed = {"kind": kind, "who": who}
        return _page(request, db, viewer, status=error.status, erase_errors=error.fields, asked=typed)
    return redirect(request, f"{_url(viewer)}/erasures/{erasure.id}", "The erasure is queued.")


@router.get("/erasures/{erasure_id}")
def erasure_page(request: Request, db: Db, viewer: Watcher, erasure_id: int) -> Response:
    return render(request, "privacy/erasure.html", {"erasure": service.find_erasure(db, viewer.project, erasure_id)})


def _url(viewer: Viewer) -> str:
    return f"/p/{viewer.project.slug}/settings/privacy"


def _page(request: Request, db: Db, viewer: Viewer, status: int = 200, before: str = "", **more: Any) -> Response:
    findings, looked, unlooked = stored.findings(db, viewer.project)
    context: dict[str, Any] = {
        "form": service.settings_of(viewer.project),
        "kinds": [(kind, service.KIND_WORDS[kind]) for kind in pii.KINDS],
        "kind_words": service.KIND_WORDS,
        "errors": {},
        "erase_errors": {},
        "asked": {"kind": "subject", "who": ""},
        "findings": findings,
        "num_looked": looked,
        "num_unlooked": unlooked,
        "sample": SAMPLE,
        "tried": None,
        "preview": None,
        "erasures": service.erasures(db, viewer.project, int_cursor(before) if before else None),
    }
    return render(request, "privacy/settings.html", context | more, status_code=status)
