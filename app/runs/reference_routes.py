"""Off-policy data: choose a base model, have a worker score the collected completions, see the figures by source model."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import ConflictError, InvalidError
from app.datasets import reference
from app.runs.base_models import find_base_model, list_base_models
from app.settings import get_settings
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/readiness/off-policy", include_in_schema=False)


def _context(db: Session, viewer: Viewer, **more: Any) -> dict[str, Any]:
    return {
        "check": reference.latest(db, viewer.project),
        "off": reference.off_policy(db, viewer.project),
        "models": list_base_models(),
        "allow_hub": get_settings().allow_hub_models,
        "typed": "",
        "errors": {},
        **more,
    }


@router.get("")
def off_policy_page(request: Request, db: Db, viewer: Annotated[Viewer, Depends(Require("snapshot.view"))]) -> Response:
    return render(request, "datasets/off_policy.html", _context(db, viewer))


@router.post("")
def measure(
    request: Request,
    db: Db,
    viewer: Annotated[Viewer, Depends(Require("run.launch"))],
    base_model: Annotated[str, Form()] = "",
) -> Response:
    try:
        model = find_base_model(base_model)
        reference.start(db, viewer.project, model.name, viewer.user)
    except (InvalidError, ConflictError) as error:
        fields = error.fields or {"": f"{error.message} {error.remedy}"}
        context = _context(db, viewer, errors=fields, typed=base_model)
        return render(request, "datasets/off_policy.html", context, status_code=error.status)
    return redirect(request, f"/p/{viewer.project.slug}/readiness/off-policy", "Queued for a worker.")
