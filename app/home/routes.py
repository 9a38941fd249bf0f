"""The first page, and a project's Home."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from app.accounts.access import Require, Viewer
from app.accounts.service import projects_of
from app.core.clock import utcnow
from app.core.db import Db
from app.home.charts import mini_days, served_auc
from app.home.service import home_of
from app.registry.gates import failed, summary_of
from app.runs.curves import held_out_auc
from app.runs.views import planned_checkpoints
from app.web.templating import render

router = APIRouter(include_in_schema=False)


@router.get("/")
def start(db: Db, viewer: Annotated[Viewer, Depends(Require("account.view"))]) -> Response:
    """Straight to the project where there is only one."""
    projects = projects_of(db, viewer.user)
    return RedirectResponse(f"/p/{projects[0][0].slug}/" if len(projects) == 1 else "/projects", 303)


@router.get("/p/{slug}/")
def home(request: Request, db: Db, viewer: Annotated[Viewer, Depends(Require("project.view"))]) -> Response:
    view = home_of(db, viewer.project, viewer.can, utcnow())
    auc = held_out_auc(view.served.heldout) if view.served else None
    run = view.open_run or (view.runs[0].run if view.runs else None)
    context = {
        "home": view,
        "planned": planned_checkpoints(run) if run else [],
        "served_auc": auc,
        "served": served_auc(auc) if auc and auc["value"] is not None else "",
        "today": view.days[-1],
        "mini": mini_days(view.days[-14:]),
        "failed": failed(view.gates),
        "gate_words": summary_of(view.gates) if view.gates else "",
    }
    return render(request, "home/home.html", context)
