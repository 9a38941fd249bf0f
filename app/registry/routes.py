"""Serve: versions, the gate, promotion, exports and the model card."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import StreamingResponse

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError
from app.core.pagination import int_cursor
from app.models import ModelVersion
from app.registry import service
from app.registry.card import front_matter, model_card, under_heading
from app.registry.exports import KINDS, OPEN, exports_of, open_archive, request_export
from app.registry.gates import failed, gates_of, summary_of
from app.web.htmx import is_htmx, redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/versions", include_in_schema=False)

CanView = Annotated[Viewer, Depends(Require("version.view"))]
CanMake = Annotated[Viewer, Depends(Require("version.make"))]
CanPromote = Annotated[Viewer, Depends(Require("version.promote"))]
CanExport = Annotated[Viewer, Depends(Require("version.export"))]


@router.get("")
def versions(request: Request, viewer: CanView, db: Db, before: str | None = None) -> Response:
    latest = service.latest_version(db, viewer.project.id)
    return _page(request, viewer, db, latest, before=before)


@router.post("")
def make_version(request: Request, viewer: CanMake, db: Db, checkpoint_id: Annotated[int, Form()]) -> Response:
    version = service.make_version(db, project=viewer.project, checkpoint_id=checkpoint_id, user=viewer.user)
    return redirect(request, _url(viewer, version), f"v{version.number} is made of step {version.checkpoint.step:,}")


@router.get("/{number:int}")
def one_version(request: Request, viewer: CanView, db: Db, number: int) -> Response:
    return _page(request, viewer, db, service.find_version(db, viewer.project.id, number))


@router.post("/{number:int}/promote")
def promote(request: Request, viewer: CanPromote, db: Db, number: int, reason: Annotated[str, Form()] = "") -> Response:
    try:
        service.promote(db, project=viewer.project, number=number, user=viewer.user, reason=reason)
    except InvalidError as error:
        version = service.find_version(db, viewer.project.id, number)
        return _page(request, viewer, db, version, reason=reason, errors=error.fields, status_code=422)
    version = service.find_version(db, viewer.project.id, number)
    return redirect(request, _url(viewer, version), f"v{number} is production")


@router.get("/{number:int}/exports")
def exports(request: Request, viewer: CanView, db: Db, number: int) -> Response:
    version = service.find_version(db, viewer.project.id, number)
    if not is_htmx(request):  # a part of the version's page, opened by itself
        return redirect(request, f"{_url(viewer, version)}#exports")
    return render(request, "registry/_exports.html", _exports(db, version))


@router.post("/{number:int}/exports")
def start_export(request: Request, viewer: CanExport, db: Db, number: int, kind: Annotated[str, Form()]) -> Response:
    version = service.find_version(db, viewer.project.id, number)
    request_export(db, version=version, kind=kind, user=viewer.user)
    if is_htmx(request):
        return render(request, "registry/_exports.html", _exports(db, version))
    return redirect(request, f"{_url(viewer, version)}#exports")


@router.get("/{number:int}/exports/{kind}/download")
def download(viewer: CanExport, db: Db, number: int, kind: str) -> Response:
    version = service.find_version(db, viewer.project.id, number)
    archive = open_archive(db, project_slug=viewer.project.slug, version=version, kind=kind)
    return StreamingResponse(
        archive.chunks,
        media_type="application/x-tar",
        headers={
            "Content-Disposition": f'attachment; filename="{archive.filename}"',
            "Content-Length": str(archive.size_bytes),
        },
    )


@router.get("/{number:int}/card")
def card(request: Request, viewer: CanView, db: Db, number: int) -> Response:
    version = service.find_version(db, viewer.project.id, number)
    return render(
        request, "registry/card.html", {"version": version, "text": under_heading(_card(db, viewer, version))}
    )


@router.get("/{number:int}/card.md")
def card_file(viewer: CanView, db: Db, number: int) -> Response:
    version = service.find_version(db, viewer.project.id, number)
    name = f"{viewer.project.slug}-v{number}.md"
    return Response(
        front_matter(version) + _card(db, viewer, version),
        media_type="text/markdown; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _url(viewer: Viewer, version: ModelVersion) -> str:
    return f"/p/{viewer.project.slug}/versions/{version.number}"


def _card(db: Db, viewer: Viewer, version: ModelVersion) -> str:
    evaluation = service.evaluation_of(db, version)
    return model_card(viewer.project, version, evaluation, gates_of(evaluation))


def _exports(db: Db, version: ModelVersion) -> dict[str, Any]:
    rows = exports_of(db, version)
    return {
        "version": version,
        "exports": rows,
        "kinds": KINDS,
        "waiting": any(row.status in OPEN for row in rows.values()),
    }


def _page(
    request: Request,
    viewer: Viewer,
    db: Db,
    version: ModelVersion | None,
    *,
    before: str | None = None,
    reason: str = "",
    errors: dict[str, str] | None = None,
    status_code: int = 200,
) -> Response:
    project_id = viewer.project.id
    gates = gates_of(service.evaluation_of(db, version)) if version else []
    holder = service.production(db, project_id)
    return render(
        request,
        "registry/versions.html",
        {
            **(_exports(db, version) if version else {"version": None}),
            "gates": gates,
            "base_model": service.base_model_label(version.run) if version else "",
            "failed": failed(gates),
            "summary": summary_of(gates) if version else "",
            "holder": holder,
            "rollback": service.previous_version(db, project_id, holder.version) if holder else None,
            "all_versions": service.versions_page(db, project_id, int_cursor(before)),
            "reason": reason,
            "errors": errors or {},
        },
        status_code=status_code,
    )
