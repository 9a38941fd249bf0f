"""Import of files: the form, the draft with its dry run, the progress and the result."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.datastructures import UploadFile

from app.accounts.access import Require, Viewer
from app.core.clock import utcnow
from app.core.db import Db
from app.core.errors import ConflictError, InvalidError, StudioError
from app.feedback.cells import safe_cell
from app.feedback.imports import drafts
from app.feedback.imports.formats import FORMATS
from app.feedback.imports.mapping import FIELDS, LABELS, shape
from app.feedback.imports.tables import DELIMITERS, ENCODINGS
from app.feedback.imports.words import Progress, progress
from app.models import Import, User
from app.settings import get_settings
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/sources")
Watcher = Annotated[Viewer, Depends(Require("source.view"))]
Importer = Annotated[Viewer, Depends(Require("source.import"))]
SmallId = Annotated[int, Path(ge=1, le=2**31 - 1)]


def _import_page(
    request: Request,
    *,
    status_code: int = 200,
    errors: dict[str, str] | None = None,
    typed: dict[str, str] | None = None,
) -> Response:
    context = {
        "errors": errors or {},
        "typed": typed or {},
        "max_bytes": get_settings().max_import_bytes,
        "formats": FORMATS.values(),
    }
    return render(request, "feedback/import.html", context, status_code=status_code)


@router.get("/import")
def import_form(request: Request, viewer: Importer) -> Response:  # noqa: ARG001 -- the guard
    return _import_page(request)


async def uploaded(request: Request) -> AsyncIterator[tuple[UploadFile | None, dict[str, str]]]:
    """FastAPI's own File() is read before the guard: anyone could fill the disk with what will be refused."""
    async with request.form() as form:
        file = form.get("file")
        told = {key: value for key, value in form.items() if isinstance(value, str)}
        yield file if isinstance(file, UploadFile) else None, told


Upload = Annotated[tuple[UploadFile | None, dict[str, str]], Depends(uploaded)]


@router.post("/import")
def import_upload(request: Request, db: Db, viewer: Importer, upload: Upload) -> Response:
    """Store the file and look at it; nothing is imported before the draft is started."""
    file, told = upload
    if file is None or not file.filename:
        return _import_page(request, status_code=422, errors={"file": "choose a file"}, typed=told)
    try:
        entry = drafts.make_draft(
            db,
            viewer.project,
            file.file,
            filename=file.filename,
            format_name=told.get("format", ""),
            user=viewer.user,
        )
    except StudioError as error:
        errors = error.fields or {"file": f"{error.message} {error.remedy}"}
        return _import_page(request, status_code=error.status, errors=errors, typed=told)
    return redirect(request, _address(viewer, entry))


def _address(viewer: Viewer, entry: Import) -> str:
    return f"/p/{viewer.project.slug}/sources/imports/{entry.id}"


def _page(
    request: Request,
    db: Db,
    viewer: Viewer,
    entry: Import,
    *,
    status_code: int = 200,
    errors: dict[str, str] | None = None,
    typed: dict[str, str] | None = None,
) -> Response:
    context: dict[str, Any] = {
        "entry": entry,
        "by": db.get(User, entry.created_by) if entry.created_by else None,
        "url": _address(viewer, entry),
        "errors": errors or {},
        "typed": typed or {},
        "format": FORMATS[entry.format],
        "formats": FORMATS.values(),
        "fields": [(name, LABELS[name]) for name in FIELDS],
        "mapping": entry.options.get("mapping", {}),
        "shape": shape(entry.options.get("mapping", {})),
        "encodings": ENCODINGS,
        "delimiters": DELIMITERS,
        "progress": _progress(entry),
    }
    name = {"draft": "feedback/import_draft.html", "succeeded": "feedback/import_result.html"}.get(
        entry.status, "feedback/import_running.html" if entry.status in drafts.OPEN else "feedback/import_result.html"
    )
    return render(request, name, context, status_code=status_code)


def _progress(entry: Import) -> Progress | None:
    return progress(entry, utcnow()) if entry.status in drafts.OPEN else None


@router.get("/imports/{import_id}")
def import_page(request: Request, db: Db, viewer: Watcher, import_id: SmallId) -> Response:
    return _page(request, db, viewer, drafts.get_import(db, viewer.project, import_id))


@router.get("/imports/{import_id}/progress")
def import_progress(request: Request, db: Db, viewer: Watcher, import_id: SmallId) -> Response:
    """The moving part of the page; asks for the whole page once it is over."""
    entry = drafts.get_import(db, viewer.project, import_id)
    if entry.status not in drafts.OPEN:
        return redirect(request, _address(viewer, entry))
    context = {"entry": entry, "url": _address(viewer, entry), "progress": _progress(entry)}
    return render(request, "feedback/import_progress.html", context)


@router.post("/imports/{import_id}/change")
def change_import(request: Request, db: Db, viewer: Importer, import_id: SmallId, upload: Upload) -> Response:
    entry, (_, told) = drafts.get_import(db, viewer.project, import_id), upload
    try:
        drafts.change_draft(db, entry, told)
    except InvalidError as error:
        return _page(request, db, viewer, entry, status_code=error.status, errors=error.fields, typed=told)
    return redirect(request, _address(viewer, entry), "Looked at again.")


def _start(request: Request, db: Db, viewer: Viewer, import_id: int, told: dict[str, str], *, check: bool) -> Response:
    """What stands in the form counts, also when nobody pressed "Look again" after a change."""
    entry = drafts.get_import(db, viewer.project, import_id)
    try:
        if any(key.startswith("map_") for key in told) or "format" in told:
            drafts.change_draft(db, entry, told)
        drafts.start(db, entry, user=viewer.user, check_only=check)
    except InvalidError as error:
        return _page(request, db, viewer, entry, status_code=error.status, errors=error.fields, typed=told)
    except ConflictError:
        if entry.status not in drafts.OPEN:
            raise
    return redirect(request, _address(viewer, entry))


@router.post("/imports/{import_id}/start")
def start_import(request: Request, db: Db, viewer: Importer, import_id: SmallId, upload: Upload) -> Response:
    return _start(request, db, viewer, import_id, upload[1], check=False)


@router.post("/imports/{import_id}/check")
def check_import(request: Request, db: Db, viewer: Importer, import_id: SmallId, upload: Upload) -> Response:
    """Read all of the file and list every rejected row; nothing is stored."""
    return _start(request, db, viewer, import_id, upload[1], check=True)


@router.post("/imports/{import_id}/cancel")
def cancel_import(request: Request, db: Db, viewer: Importer, import_id: SmallId) -> Response:
    entry = drafts.get_import(db, viewer.project, import_id)
    words = "Cancelled." if drafts.cancel(db, entry, user=viewer.user) else "It was over already."
    return redirect(request, _address(viewer, entry), words)


@router.get("/imports/{import_id}/rejected.csv")
def rejected_rows(db: Db, viewer: Watcher, import_id: SmallId) -> Response:
    entry = drafts.get_import(db, viewer.project, import_id)
    listed = entry.rejected or (entry.preview or {}).get("rejected", [])
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["line", "reason"])
    writer.writerows([row["line"], safe_cell(row["reason"])] for row in listed)
    headers = {"Content-Disposition": f'attachment; filename="import-{entry.id}-rejected.csv"'}
    return Response(file.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)
