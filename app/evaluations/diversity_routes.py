"""The diversity page, the figures under its cursor, and the decisions on its alarms."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import JSONResponse

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError, NotFoundError
from app.evaluations import alarms, charts, diversity, heat, words
from app.evaluations.diversity import Address, Asked
from app.evaluations.frame import Frame, frame_of
from app.evaluations.heat import MetricKey, Order, Show, View
from app.web.htmx import is_htmx, redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/evaluations/{run_id:int}/diversity", include_in_schema=False)

CanView = Annotated[Viewer, Depends(Require("evaluation.view"))]
CanDecide = Annotated[Viewer, Depends(Require("evaluation.decide"))]
Name = Annotated[str, Query(max_length=500)]


def asked_for(
    step: int | None = None,
    metric: MetricKey | None = None,
    show: Show = "all",
    order: Order = "effect",
    q: Name = "",
    domain: Name = "",
    category: Name = "",
    prompt: Annotated[int | None, Query(ge=1)] = None,
    at: int | None = None,
) -> tuple[MetricKey | None, Asked]:
    """The fields of the address, with the metric that it names."""
    view = View(metric or "similarity_normalised", show, order, q, domain)
    return metric, Asked(view, step, category, prompt, at)


AskedFor = Annotated[tuple[MetricKey | None, Asked], Depends(asked_for)]


@router.get("")
def page(request: Request, viewer: CanView, db: Db, run_id: int, asked_metric: AskedFor) -> Response:
    """The whole page; for a request that asks for a part, the samples alone."""
    frame = frame_of(db, viewer.project.id, run_id, "diversity", asked_metric[1].step, last=True)
    asked = _settled(frame, *asked_metric)
    if is_htmx(request):
        samples = diversity.chosen_samples(db, frame, asked, "")
        if samples is None:
            raise NotFoundError(f"There are no samples of {asked.category} at this checkpoint.")
        context = {
            "samples": samples,
            "sample_steps": diversity.sample_steps(frame, samples),
            "asked": asked,
            "address": _address(viewer, frame, asked_metric[0], asked),
        }
        return render(request, "evaluations/_samples.html", {**frame.context(), **context})
    return _page(request, viewer, db, frame, asked, asked_metric[0])


@router.get("/cells")
def cells(viewer: CanView, db: Db, run_id: int, asked_metric: AskedFor) -> Response:
    """Names and figures of the map for its cursor."""
    frame = frame_of(db, viewer.project.id, run_id, "diversity", asked_metric[1].step, last=True)
    asked = _settled(frame, *asked_metric)
    if frame.shown is None or not frame.shown.diversity:
        raise NotFoundError("Diversity was not measured at this checkpoint.")
    found = diversity.heat_at(db, frame, asked.view, alarms.raised_at(db, frame.shown))
    return JSONResponse(found.cells())


@router.post("/alarms/{alarm_id:int}")
def decide(
    request: Request,
    viewer: CanDecide,
    db: Db,
    run_id: int,
    alarm_id: int,
    decision: Annotated[str, Form()] = "",
    reason: Annotated[str, Form()] = "",
    step: Annotated[int | None, Form()] = None,
) -> Response:
    alarm = alarms.find_alarm(db, viewer.project.id, run_id, alarm_id)
    try:
        alarms.decide(db, alarm=alarm, decision=decision, reason=reason, user=viewer.user)
    except InvalidError as error:
        frame = frame_of(db, viewer.project.id, run_id, "diversity", step, last=True)
        form = {"id": alarm_id, "decision": decision, "reason": reason, "errors": error.fields}
        asked = _settled(frame, None, Asked(View("similarity_normalised"), step))
        return _page(request, viewer, db, frame, asked, None, form=form, status_code=422)
    url = f"/p/{viewer.project.slug}/evaluations/{run_id}/diversity" + (f"?step={step}" if step is not None else "")
    return redirect(request, f"{url}#alarms", f"Alarm {decision}")


def _settled(frame: Frame, metric: MetricKey | None, asked: Asked) -> Asked:
    """Where the address names no metric, the one that alarms look at, else the first that was measured."""
    measured = heat.measured(frame.evaluations)
    if metric is not None or not measured or asked.view.metric in measured:
        return asked
    main = "similarity" if "similarity" in measured else measured[0]
    view = asked.view
    settled = View(main, view.show, view.order, view.search, view.domain)
    return Asked(settled, asked.step, asked.category, asked.prompt, asked.at)


def _address(viewer: Viewer, frame: Frame, metric: MetricKey | None, asked: Asked) -> Address:
    path = f"/p/{viewer.project.slug}/evaluations/{frame.run.id}/diversity"
    return Address(path, {**asked.params(), "metric": metric})


def _page(
    request: Request,
    viewer: Viewer,
    db: Db,
    frame: Frame,
    asked: Asked,
    metric: MetricKey | None,
    *,
    form: dict[str, Any] | None = None,
    status_code: int = 200,
) -> Response:
    found: dict[str, Any] = {}
    if frame.shown is not None and frame.shown.diversity:
        found = diversity.page_of_run(db, frame, asked, _address(viewer, frame, metric, asked))
        main = words.main_change(frame.shown.diversity)[0]
        found |= {"curve": charts.diversity_points(frame.evaluations, main), "margin": words.MARGIN}
    context = {**frame.context(), **found, "form": form or {}, "decisions": list(alarms.DECISIONS.items())}
    return render(request, "evaluations/diversity.html", context, status_code=status_code)
