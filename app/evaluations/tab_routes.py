"""The tabs Suites and Safety of a run's evaluation, and the audit of refusals by a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Request, Response
from starlette.datastructures import UploadFile

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError, StudioError
from app.evaluations import endpoints, jobs, refusal_audit, safety_reports, suite_results, suite_words, suites
from app.evaluations.frame import Frame, frame_of
from app.evaluations.job_routes import CanRun
from app.evaluations.suite_routes import CanEdit, CanView, SmallId, root
from app.web.formats import plural
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}", include_in_schema=False)
CanSee = Annotated[Viewer, Depends(Require("evaluation.view"))]


@router.get("/evaluations/{run_id:int}/suites")
def suites_tab(request: Request, viewer: CanSee, db: Db, run_id: SmallId, step: int | None = None) -> Response:
    frame = frame_of(db, viewer.project.id, run_id, "suites", step)
    context = {
        **frame.context(),
        **endpoints.offered(db, viewer.project),
        "results": suite_results.results_of_run(db, frame.run),
        "jobs": [job for job in jobs.list_jobs(db, viewer.project, run_id=run_id) if job.status in jobs.OPEN],
        "choices": [suite for suite in suites.list_suites(db, viewer.project) if suite.kind != "diversity"],
        "words": suite_words,
        "seconds_left": jobs.seconds_left,
    }
    return render(request, "evaluations/suites_tab.html", context)


@router.get("/evaluations/{run_id:int}/safety")
def safety_tab(request: Request, viewer: CanSee, db: Db, run_id: SmallId, step: int | None = None) -> Response:
    return _safety_page(request, viewer, db, run_id, step)


def _safety_page(
    request: Request,
    viewer: Viewer,
    db: Db,
    run_id: int,
    step: int | None = None,
    *,
    error: StudioError | None = None,
    typed: str = "",
) -> Response:
    frame = frame_of(db, viewer.project.id, run_id, "safety", step)
    every = suite_results.results_of_run(db, frame.run)
    rows = [row for row in every if row.version.header.get("kind") in suite_results.SAFETY_KINDS]
    context = {
        **frame.context(),
        **endpoints.offered(db, viewer.project),
        "results": rows,
        "audits": {row.result.id: refusal_audit.audit_of(db, row.result) for row in rows},
        "choices": [
            suite for suite in suites.list_suites(db, viewer.project) if suite.kind in suite_results.SAFETY_KINDS
        ],
        "words": suite_words,
        "lacking": _lacking(frame, rows),
        "first_of_kind": {row.version.header["kind"]: row.result.id for row in reversed(rows)},
        "leaks": [row for row in every if "leaks" in row.summary],
        "reports": safety_reports.reports_of_run(db, frame.run),
        "errors": error.fields if error else {},
        "typed": typed,
    }
    return render(request, "evaluations/suites_safety.html", context, status_code=error.status if error else 200)


def _lacking(frame: Frame, rows: Sequence[suite_results.Row]) -> list[str]:
    """Kinds of safety suites that the checkpoint which would become a version has not answered."""
    wanted = frame.candidate.checkpoint_id if frame.candidate else None
    there = {row.version.header["kind"] for row in rows if row.result.checkpoint_id == wanted}
    return [kind for kind in suite_results.SAFETY_KINDS if kind not in there]


async def uploaded_report(request: Request) -> Any:
    """Read after the guard."""
    async with request.form() as form:
        yield {name: form.get(name) for name in ("file", "checkpoint_id")}


@router.post("/evaluations/{run_id:int}/safety/import")
def import_report(
    request: Request, viewer: CanRun, db: Db, run_id: SmallId, form: Annotated[dict[str, Any], Depends(uploaded_report)]
) -> Response:
    run = frame_of(db, viewer.project.id, run_id, "safety").run
    chosen = form["checkpoint_id"] if isinstance(form["checkpoint_id"], str) else ""
    checkpoint_id = int(chosen) if chosen.isdecimal() and len(chosen) < 10 else None
    file = form["file"]
    try:
        if not isinstance(file, UploadFile) or not file.filename:
            raise InvalidError("No report was given.", fields={"file": "choose a file"})
        content = file.file.read(safety_reports.MAX_BYTES + 1)
        shown = safety_reports.bring_in(db, run, checkpoint_id, content, file.filename, user=viewer.user)
    except InvalidError as error:
        return _safety_page(request, viewer, db, run_id, error=error, typed=chosen)
    text = f"{shown.tool}: {plural(shown.total.passed + shown.total.failed, 'attempt')} judged."
    return redirect(request, f"/p/{viewer.project.slug}/evaluations/{run.id}/safety", text)


@router.post("/evaluations/{run_id:int}/safety/reports/{report_id:int}/remove")
def remove_report(request: Request, viewer: CanRun, db: Db, run_id: SmallId, report_id: SmallId) -> Response:
    run = frame_of(db, viewer.project.id, run_id, "safety").run
    tool = safety_reports.remove(db, run, report_id, user=viewer.user)
    return redirect(
        request, f"/p/{viewer.project.slug}/evaluations/{run.id}/safety", f"The report of {tool} is removed."
    )


@router.get("/suites/results/{result_id:int}/audit")
def audit_page(request: Request, viewer: CanView, db: Db, result_id: SmallId) -> Response:
    row = suite_results.find_result(db, viewer.project, result_id)
    context = {
        "row": row,
        "audit": refusal_audit.audit_of(db, row.result),
        "item": refusal_audit.next_item(db, row.result),
        "words": suite_words,
    }
    return render(request, "evaluations/suite_audit.html", context)


@router.post("/suites/results/{result_id:int}/audit")
def audit(
    request: Request,
    viewer: CanEdit,
    db: Db,
    result_id: SmallId,
    number: Annotated[int, Form(ge=0, le=10**6)],
    repeat: Annotated[int, Form(ge=0, le=999)],
    label: Annotated[Literal["none", "partial", "full"], Form()],
) -> Response:
    row = suite_results.find_result(db, viewer.project, result_id)
    refusal_audit.label(db, row.result, number, repeat, label, user=viewer.user)
    return redirect(request, f"{root(viewer)}/results/{result_id}/audit")
