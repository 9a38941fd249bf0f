"""Sources: API keys, imports and the form that takes a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Path, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.datastructures import UploadFile

from app.accounts.access import Require, Viewer
from app.accounts.keys import SCOPES, create_key, list_keys, revoke_key
from app.core.clock import utcnow
from app.core.db import Db
from app.core.errors import InvalidError, NotFoundError, StudioError
from app.feedback.importers import import_file
from app.models import Import, Project
from app.settings import get_settings
from app.web.address import public_address
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/sources")
Watcher = Annotated[Viewer, Depends(Require("source.view"))]
Importer = Annotated[Viewer, Depends(Require("source.import"))]
KeyEditor = Annotated[Viewer, Depends(Require("key.edit"))]
SmallId = Annotated[int, Path(ge=1, le=2**31 - 1)]


def last_imports(db: Session, project: Project, limit: int = 20) -> Sequence[Import]:
    query = select(Import).where(Import.project_id == project.id)
    return db.scalars(query.order_by(Import.id.desc()).limit(limit)).all()


def _page(request: Request, db: Session, viewer: Viewer, *, status_code: int = 200, **more: Any) -> Response:
    context = {
        "keys": list_keys(db, viewer.project),
        "imports": last_imports(db, viewer.project),
        "now": utcnow(),
        "scopes": SCOPES,
        "address": public_address(request),
        "token": None,
        "errors": {},
        "typed": {"name": "", "expires_in_days": "365", "scopes": list(SCOPES)},
        **more,
    }
    return render(request, "feedback/sources.html", context, status_code=status_code)


@router.get("")
def sources(request: Request, db: Db, viewer: Watcher) -> Response:
    return _page(request, db, viewer)


@router.post("/keys")
def make_key(
    request: Request,
    db: Db,
    viewer: KeyEditor,
    name: Annotated[str, Form()] = "",
    expires_in_days: Annotated[str, Form()] = "365",
    scope: Annotated[list[str], Form()] = [],  # noqa: B006 -- FastAPI copies defaults
) -> Response:
    """The key is in this answer and nowhere else."""
    typed = {"name": name, "expires_in_days": expires_in_days, "scopes": scope}
    plain = expires_in_days.strip()
    days = int(plain) if plain.isdecimal() and len(plain) < 6 else 0
    try:
        key, token = create_key(
            db, viewer.project, name, scope, expires_in_days=days if plain else None, user=viewer.user
        )
    except InvalidError as error:
        return _page(request, db, viewer, status_code=422, errors=error.fields, typed=typed)
    return _page(request, db, viewer, token=token, fresh=key)


@router.post("/keys/{key_id}/revoke")
def end_key(request: Request, db: Db, viewer: KeyEditor, key_id: SmallId) -> Response:
    key = revoke_key(db, viewer.project, key_id, user=viewer.user)
    return redirect(request, f"/p/{viewer.project.slug}/sources", f"{key.name} is revoked.")


def _import_page(request: Request, *, status_code: int = 200, errors: dict[str, str] | None = None) -> Response:
    context = {"errors": errors or {}, "max_bytes": get_settings().max_import_bytes}
    return render(request, "feedback/import.html", context, status_code=status_code)


@router.get("/import")
def import_form(request: Request, viewer: Importer) -> Response:  # noqa: ARG001 -- the guard
    return _import_page(request)


async def uploaded_file(request: Request) -> AsyncIterator[UploadFile | None]:
    """FastAPI's own File() is read before the guard: anyone could fill the disk with what will be refused."""
    async with request.form() as form:
        file = form.get("file")
        yield file if isinstance(file, UploadFile) else None


@router.post("/import")
def import_upload(
    request: Request, db: Db, viewer: Importer, file: Annotated[UploadFile | None, Depends(uploaded_file)]
) -> Response:
    """The whole file or nothing of it; then to the page with what became of every row."""
    if file is None or not file.filename:
        return _import_page(request, status_code=422, errors={"file": "choose a file"})
    try:
        entry = import_file(db, viewer.project, file.file, filename=file.filename, user=viewer.user)
    except StudioError as error:
        words = error.fields.get("file") or f"{error.message} {error.remedy}"
        return _import_page(request, status_code=error.status, errors={"file": words})
    return redirect(request, f"/p/{viewer.project.slug}/sources/imports/{entry.id}")


@router.get("/imports/{import_id}")
def import_result(request: Request, db: Db, viewer: Watcher, import_id: SmallId) -> Response:
    entry = db.scalar(select(Import).where(Import.project_id == viewer.project.id, Import.id == import_id))
    if entry is None:
        raise NotFoundError("There is no such import in this project.")
    return render(request, "feedback/import_result.html", {"entry": entry})
