"""Downloads of labels and ratings, streamed while they are read."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from app.accounts.access import Require, Viewer
from app.accounts.audit import record
from app.core.db import Db
from app.datasets import exports, service
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}", include_in_schema=False)
Exporter = Annotated[Viewer, Depends(Require("export.create"))]


@router.get("/export")
def export_page(request: Request, db: Db, viewer: Exporter, snapshot: str = "") -> Response:
    """What can be downloaded, of the labels as they are now or of a snapshot."""
    chosen = service.find_snapshot(db, viewer.project, snapshot) if snapshot else None
    return render(request, "feedback/export.html", {"snapshot": chosen})


@router.get("/export/download")
def export_download(
    db: Db,
    viewer: Exporter,
    kind: str = "kto",
    file_format: Annotated[str, Query(alias="format")] = "jsonl",
    snapshot: str = "",
    side: str = "",
) -> Response:
    chosen = service.find_snapshot(db, viewer.project, snapshot) if snapshot else None
    download = exports.export(viewer.project, kind=kind, file_format=file_format, snapshot=chosen, side=side)
    record(
        db,
        "labels.exported",
        project_id=viewer.project.id,
        user_id=viewer.user.id,
        subject=chosen.content_hash[:16] if chosen else "current",
        kind=kind,
        format=file_format,
    )
    headers = {"Content-Disposition": f'attachment; filename="{download.filename}"'}
    return StreamingResponse(download.chunks, media_type=download.media_type, headers=headers)
