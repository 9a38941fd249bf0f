"""Serve: versions, the gate, promotion, exports and the model card."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import StreamingResponse

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError
from app.core.pagination import int_cursor
from app.models import ModelVersion, PromotionRequest, User
from app.registry import approvals, policy, service
from app.registry.card import card_json, front_matter, model_card, under_heading
from app.registry.card_data import card_data
from app.registry.evidence import evidence_of, gates_of_version
from app.registry.exports import KINDS, OPEN, exports_of, open_archive, request_export
from app.registry.gates import blocking, failed, summary_of
from app.registry.labels import base_model_label
from app.web.htmx import is_htmx, redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/versions", include_in_schema=False)

CanView = Annotated[Viewer, Depends(Require("version.view"))]
CanMake = Annotated[Viewer, Depends(Require("version.make"))]
CanPromote = Annotated[Viewer, Depends(Require("version.promote"))]
CanExport = Annotated[Viewer, Depends(Require("version.export"))]
CanSetPolicy = Annotated[Viewer, Depends(Require("gate.edit"))]
Reason = Annotated[str, Form()]


@router.get("")
def versions(request: Request, viewer: CanView, db: Db, before: str | None = None) -> Response:
    latest = service.latest_version(db, viewer.project.id)
    return _page(request, viewer, db, latest, before=before)


@router.post("")
def make_version(request: Request, viewer: CanMake, db: Db, checkpoint_id: Annotated[int, Form()]) -> Response:
    before = service.version_of(db, viewer.project.id, checkpoint_id)
    version = service.make_version(db, project=viewer.project, checkpoint_id=checkpoint_id, user=viewer.user)
    step = f"step {version.checkpoint.step:,}"
    told = f"v{version.number} is made of {step}" if before is None else f"v{version.number} of {step} exists already"
    return redirect(request, _url(viewer, version), told)


@router.get("/{number:int}")
def one_version(request: Request, viewer: CanView, db: Db, number: int) -> Response:
    return _page(request, viewer, db, service.find_version(db, viewer.project.id, number))


@router.post("/{number:int}/promote")
def promote(request: Request, viewer: CanPromote, db: Db, number: int, reason: Reason = "") -> Response:
    try:
        moved = service.promote(db, project=viewer.project, number=number, user=viewer.user, reason=reason)
    except InvalidError as error:
        return _again(request, viewer, db, number, reason, error)
    told = f"v{number} is production"
    if isinstance(moved, PromotionRequest):
        told = f"Asked: another owner or lead decides about v{number}"
    return redirect(request, _url(viewer, service.find_version(db, viewer.project.id, number)), told)


@router.post("/{number:int}/approve")
def approve(request: Request, viewer: CanPromote, db: Db, number: int, reason: Reason = "") -> Response:
    try:
        service.approve(db, project=viewer.project, number=number, user=viewer.user, reason=reason)
    except InvalidError as error:
        return _again(request, viewer, db, number, reason, error)
    version = service.find_version(db, viewer.project.id, number)
    return redirect(request, _url(viewer, version), f"v{number} is production")


@router.post("/{number:int}/refuse")
def refuse(request: Request, viewer: CanPromote, db: Db, number: int, reason: Reason = "") -> Response:
    version = service.find_version(db, viewer.project.id, number)
    own = (waiting := approvals.pending_request(db, version)) is not None and waiting.requested_by == viewer.user.id
    status = "withdrawn" if own else "refused"
    approvals.decide(db, version, user=viewer.user, status=status, reason=reason.strip())
    return redirect(request, _url(viewer, version), f"The request for v{number} is {status}")


@router.get("/policy")
def gate_policy(request: Request, viewer: CanView, db: Db) -> Response:
    return render(request, "registry/policy.html", policy.form_context(db, viewer.project))


async def _typed_form(request: Request) -> dict[str, str]:
    return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}


@router.post("/policy")
def set_gate_policy(
    request: Request, viewer: CanSetPolicy, db: Db, typed: Annotated[dict[str, str], Depends(_typed_form)]
) -> Response:
    try:
        policy.save(db, viewer.project, typed, user=viewer.user)
    except InvalidError as error:
        context = policy.form_context(db, viewer.project, typed=typed, errors=error.fields)
        return render(request, "registry/policy.html", context, status_code=422)
    return redirect(request, f"/p/{viewer.project.slug}/versions/policy", "The policy is saved")


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
        request,
        "registry/card.html",
        {"version": version, "text": under_heading(model_card(_card(db, viewer, version)))},
    )


@router.get("/{number:int}/card.md")
def card_file(viewer: CanView, db: Db, number: int) -> Response:
    version = service.find_version(db, viewer.project.id, number)
    name = f"{viewer.project.slug}-v{number}.md"
    data = _card(db, viewer, version)
    return Response(
        front_matter(data) + model_card(data),
        media_type="text/markdown; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.get("/{number:int}/card.json")
def card_records(viewer: CanView, db: Db, number: int) -> Response:
    version = service.find_version(db, viewer.project.id, number)
    name = f"{viewer.project.slug}-v{number}.json"
    return Response(
        card_json(_card(db, viewer, version)),
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _url(viewer: Viewer, version: ModelVersion) -> str:
    return f"/p/{viewer.project.slug}/versions/{version.number}"


def _card(db: Db, viewer: Viewer, version: ModelVersion) -> dict[str, Any]:
    promotions = service.promotions_of(db, version)
    return card_data(viewer.project, version, evidence_of(db, version), gates_of_version(db, version), promotions)


def _again(request: Request, viewer: Viewer, db: Db, number: int, reason: str, error: InvalidError) -> Response:
    version = service.find_version(db, viewer.project.id, number)
    return _page(request, viewer, db, version, reason=reason, errors=error.fields, status_code=422)


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
    gates = gates_of_version(db, version)
    holder = service.production(db, project_id)
    asked = approvals.pending_request(db, version) if version else None
    return render(
        request,
        "registry/versions.html",
        {
            **(_exports(db, version) if version else {"version": None}),
            "gates": gates,
            "at_step": service.evaluated_at(db, version) if version else "",
            "base_model": base_model_label(version.run) if version else "",
            "failed": failed(gates),
            "blocking": blocking(gates),
            "asked": asked,
            "asked_by": db.get(User, asked.requested_by) if asked and asked.requested_by else None,
            "needs_second": approvals.num_approvers(db, viewer.project) > 1,
            "summary": summary_of(gates) if version else "",
            "holder": holder,
            "rollback": service.previous_version(db, project_id, holder.version) if holder else None,
            "all_versions": service.versions_page(db, project_id, int_cursor(before)),
            "reason": reason,
            "errors": errors or {},
        },
        status_code=status_code,
    )
