"""Align: the list of runs, the launch form, one run, the workers."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import HTMLResponse

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError
from app.datasets.service import find_snapshot
from app.models import Run
from app.runs import launching, lifecycle, pausing, service, views, workers
from app.runs.events import ViewedRun
from app.runs.forms import LaunchForm
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/runs", include_in_schema=False)
worker_router = APIRouter(include_in_schema=False)

CanView = Annotated[Viewer, Depends(Require("run.view"))]
CanLaunch = Annotated[Viewer, Depends(Require("run.launch"))]
CanStop = Annotated[Viewer, Depends(Require("run.stop"))]


async def typed_values(request: Request) -> dict[str, Any]:
    """The launch form as it was typed, text by name."""
    return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}


Typed = Annotated[dict[str, Any], Depends(typed_values)]


@router.get("")
def run_list(request: Request, viewer: CanView, db: Db, before: str | None = None) -> HTMLResponse:
    return render(
        request, "runs/list.html", {"runs": service.list_runs(db, viewer.project, before), "is_first": not before}
    )


@router.get("/new")
def launch_form(
    request: Request, viewer: CanLaunch, db: Db, clone: int | None = None, snapshot: str = ""
) -> HTMLResponse:
    """``snapshot`` is its hash, as its page links here."""
    source = service.get_run(db, viewer.project, clone) if clone else None
    chosen = find_snapshot(db, viewer.project, snapshot).id if snapshot else None
    form = launching.start_form(db, viewer.project, source=source, snapshot_id=chosen)
    form = form.model_copy(update={"launch_key": secrets.token_urlsafe(16)})
    return _form_page(request, db, viewer, form.model_dump(), source=source)


@router.post("/preflight")
def preflight_part(request: Request, viewer: CanLaunch, db: Db, typed: Typed) -> HTMLResponse:
    """Checks what is typed; changes nothing."""
    return render(request, "runs/_preflight.html", launching.checked(db, viewer.project, typed))


@router.post("")
def launch(request: Request, viewer: CanLaunch, db: Db, typed: Typed) -> Response:
    try:
        run = launching.launch_form(db, viewer.project, viewer.user, typed)
    except InvalidError as error:
        return _form_page(request, db, viewer, typed, errors=error.fields or {"": error.message})
    return redirect(request, _url(viewer, run))


@router.get("/{run_id:int}")  # noqa: FAST003 -- ViewedRun reads it
def run_page(request: Request, run: ViewedRun, db: Db) -> HTMLResponse:
    return render(request, "runs/run.html", views.page_context(db, run))


@router.get("/{run_id:int}/log")  # noqa: FAST003 -- ViewedRun reads it
def log_page(request: Request, run: ViewedRun, attempt: int | None = None) -> HTMLResponse:
    shown = attempt if attempt is not None and 1 <= attempt <= run.attempt else run.attempt
    return render(
        request, "runs/log.html", {"run": run, "attempt": shown, "text": service.log_tail(run.id, shown, 64_000)}
    )


@router.get("/{run_id:int}/config")  # noqa: FAST003 -- ViewedRun reads it
def config_page(request: Request, run: ViewedRun) -> HTMLResponse:
    return render(request, "runs/config.html", {"run": run, "rows": launching.config_rows(run.config)})


@router.post("/{run_id:int}/stop")
def stop(request: Request, viewer: CanStop, db: Db, run_id: int) -> Response:
    run = service.get_run(db, viewer.project, run_id)
    stopped = lifecycle.request_stop(db, run, user_id=viewer.user.id)
    if stopped.status == "cancelled":
        words = "Ended; its checkpoints are kept" if stopped.step else "Cancelled before it started"
    else:
        words = "Stopping: it saves a checkpoint first"
    return redirect(request, _url(viewer, run), f"{run.name}: {words}")


@router.post("/{run_id:int}/go-on")
def go_on(request: Request, viewer: CanLaunch, db: Db, run_id: int, reason: Annotated[str, Form()] = "") -> Response:
    """A lead's decision about a run that a critical alarm has paused."""
    run = service.get_run(db, viewer.project, run_id)
    try:
        pausing.go_on(db, run, viewer.user, reason)
    except InvalidError as error:
        context = views.page_context(db, run, errors=error.fields, reason=reason)
        return render(request, "runs/run.html", context, status_code=422)
    return redirect(request, _url(viewer, run), f"{run.name} goes on from its last checkpoint")


@worker_router.get("/workers")
def worker_list(request: Request, viewer: Annotated[Viewer, Depends(Require("worker.view"))], db: Db) -> HTMLResponse:
    return render(request, "runs/workers.html", {"rows": workers.list_workers(db, viewer.user)})


def _url(viewer: Viewer, run: Run) -> str:
    return f"/p/{viewer.project.slug}/runs/{run.id}"


def _form_page(
    request: Request,
    db: Db,
    viewer: Viewer,
    typed: dict[str, Any],
    *,
    errors: dict[str, str] | None = None,
    source: Run | None = None,
) -> HTMLResponse:
    context = launching.checked(db, viewer.project, typed)
    status = 422 if errors else 200
    fields = LaunchForm.model_construct().model_dump() | typed
    context |= launching.choices(db, viewer.project, source, fields["diversity_suite"])
    return render(request, "runs/new.html", context | {"form": fields, "errors": errors or {}}, status_code=status)
