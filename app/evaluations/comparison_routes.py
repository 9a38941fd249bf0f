"""KTO against DPO: start a comparison of a run with one click, watch it, read its decision."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError, NotFoundError
from app.evaluations import comparison_form, comparison_views, comparisons
from app.evaluations.frame import Frame, frame_of
from app.web.htmx import redirect
from app.web.templating import render
from worker.alignment.config import ConfigError

router = APIRouter(prefix="/p/{slug}/evaluations/{run_id:int}/comparison", include_in_schema=False)

CanView = Annotated[Viewer, Depends(Require("evaluation.view"))]
CanLaunch = Annotated[Viewer, Depends(Require("comparison.launch"))]


async def typed_values(request: Request) -> dict[str, str]:
    return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}


Typed = Annotated[dict[str, str], Depends(typed_values)]


@router.get("")
def comparison_page(
    request: Request,
    viewer: CanView,
    db: Db,
    run_id: int,
    number: int | None = None,
    new: bool = False,
    step: int | None = None,
) -> HTMLResponse:
    """The newest comparison of the run, or the one asked for by its id; ``new`` shows the form of another."""
    frame = frame_of(db, viewer.project.id, run_id, "comparison", step)
    return _page(request, viewer, db, frame, number=number, new=new)


@router.post("")
def launch(request: Request, viewer: CanLaunch, db: Db, run_id: int, typed: Typed) -> Response:
    frame = frame_of(db, viewer.project.id, run_id, "comparison")
    try:
        with db.begin_nested():  # a refused arm leaves none of the others queued
            form = comparison_form.parse(typed, comparisons.own_knobs(frame.run))
            comparisons.launch(db, viewer.project, viewer.user, frame.run, form)
    except InvalidError as error:
        return _page(request, viewer, db, frame, typed=typed, errors=error.fields or {"": error.message})
    except ConfigError as error:
        return _page(request, viewer, db, frame, typed=typed, errors={"": str(error)})
    return redirect(request, request.url.path)


@router.post("/{comparison_id:int}/cancel")
def cancel(request: Request, viewer: CanLaunch, db: Db, run_id: int, comparison_id: int) -> Response:
    comparison = comparisons.get_comparison(db, viewer.project, comparison_id)
    if comparison.run_id != run_id:
        raise NotFoundError("There is no such comparison of this run.")
    comparisons.cancel(db, viewer.project, viewer.user, comparison)
    return redirect(request, f"/p/{viewer.project.slug}/evaluations/{run_id}/comparison", "The comparison is cancelled")


def _page(
    request: Request,
    viewer: Viewer,
    db: Db,
    frame: Frame,
    *,
    number: int | None = None,
    new: bool = False,
    typed: dict[str, str] | None = None,
    errors: dict[str, str] | None = None,
) -> HTMLResponse:
    found = comparisons.comparisons_of(db, frame.run)
    shown = next((item for item in found if item.id == number), None) if number is not None else None
    if number is not None and shown is None:
        raise NotFoundError("There is no such comparison of this run.")
    shown = shown or (found[0] if found else None)
    is_open = any(item.status in comparisons.OPEN for item in found)
    asks = not is_open and (new or errors is not None or shown is None or shown.status in {"failed", "cancelled"})
    context: dict[str, Any] = {
        **frame.context(),
        **comparison_views.context(db, shown, frame.run),
        "all": found,
        "asks": asks,
        "is_open": is_open,
        "errors": errors or {},
    }
    if asks and not context["why_not"]:
        context |= _form_context(viewer, db, frame, typed)
    return render(request, "evaluations/comparison.html", context, status_code=422 if errors else 200)


def _form_context(viewer: Viewer, db: Db, frame: Frame, typed: dict[str, str] | None) -> dict[str, Any]:
    run, own = frame.run, comparisons.own_knobs(frame.run)
    form = typed or comparison_form.typed_defaults(own) | {"launch_key": secrets.token_urlsafe(16)}
    try:
        num_runs = comparison_form.parse(form, own).num_new_runs
    except InvalidError:
        num_runs = None
    suites = comparisons.suite_choices(db, viewer.project)
    return {
        "form": comparison_form.typed_defaults(own) | {"paired": ""} | form if typed else form,
        "num_runs": num_runs,
        "suites": suites,
        "primaries": [
            ("", "Held-out votes: AUC within the prompt"),
            *((version.id, suite.name) for suite, version in suites if suite.kind == "eval"),
        ],
        "judges": [("", "None"), *((item.id, item.name) for item in comparisons.judges(db, viewer.project))],
        "use": comparisons.data_use_of(run),
    }
