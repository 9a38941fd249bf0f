"""Serve: what votes and answers say after promotion, and incidents."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError
from app.registry import incidents, service
from app.registry.monitoring import DAYS, SENTINELS, watch
from app.registry.monitoring_charts import control_chart, rate_days
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/monitoring", include_in_schema=False)

CanView = Annotated[Viewer, Depends(Require("monitoring.view"))]
CanEdit = Annotated[Viewer, Depends(Require("incident.edit"))]


@router.get("")
def monitoring(request: Request, viewer: CanView, db: Db, model: str = "", baseline: str = "") -> Response:
    return _page(request, viewer, db, model=model, baseline=baseline)


@router.post("/incidents")
def report(request: Request, viewer: CanEdit, db: Db, title: Annotated[str, Form()] = "") -> Response:
    try:
        incidents.report(db, viewer.project, viewer.user, title)
    except InvalidError as error:
        return _page(request, viewer, db, typed={"title": title}, errors=error.fields, status=422)
    return redirect(request, f"/p/{viewer.project.slug}/monitoring", "The incident is open")


@router.post("/incidents/{incident_id:int}/close")
def close(request: Request, viewer: CanEdit, db: Db, incident_id: int, note: Annotated[str, Form()] = "") -> Response:
    try:
        incidents.close(db, viewer.project, incident_id, viewer.user, note)
    except InvalidError as error:
        errors = {f"note-{incident_id}": text for text in error.fields.values()}
        return _page(request, viewer, db, typed={f"note-{incident_id}": note}, errors=errors, status=422)
    return redirect(request, f"/p/{viewer.project.slug}/monitoring", "The incident is closed")


def _page(
    request: Request,
    viewer: Viewer,
    db: Db,
    *,
    model: str = "",
    baseline: str = "",
    typed: dict[str, str] | None = None,
    errors: dict[str, str] | None = None,
    status: int = 200,
) -> Response:
    found = watch(db, viewer.project, model=model, baseline=baseline)
    return render(
        request,
        "registry/monitoring.html",
        {
            "found": found,
            "incidents": incidents.incidents_of(db, viewer.project),
            "holder": service.production(db, viewer.project.id),
            "num_days": DAYS,
            "sentinel_names": SENTINELS,
            "rate_days": rate_days,
            "control_chart": control_chart,
            "typed": typed or {},
            "errors": errors or {},
        },
        status_code=status,
    )
