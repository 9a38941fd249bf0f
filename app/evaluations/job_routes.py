"""Evaluation jobs: started, watched, cancelled; and what their arms answered."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request, Response

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError, NotFoundError
from app.core.pagination import int_cursor
from app.evaluations import jobs, suite_results, suite_words, suites
from app.evaluations.suite_routes import CanView, SmallId, root
from app.models import Checkpoint
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/suites", include_in_schema=False)
CanRun = Annotated[Viewer, Depends(Require("suite.run"))]


@router.post("/run")
def start(
    request: Request,
    viewer: CanRun,
    db: Db,
    checkpoint_id: Annotated[str, Form()] = "",
    version_id: Annotated[list[str], Form()] = [],  # noqa: B006 -- FastAPI copies defaults
    judge: Annotated[str, Form()] = "",
    endpoint: Annotated[str, Form()] = "",
) -> Response:
    plain = checkpoint_id.strip()
    checkpoint = db.get(Checkpoint, int(plain)) if plain.isdecimal() and len(plain) < 10 else None
    if checkpoint is None or checkpoint.project_id != viewer.project.id or checkpoint.removed_at is not None:
        raise InvalidError("There is no such checkpoint.", remedy="Choose one whose files are kept.")
    wanted = [int(value) for value in version_id if value.isdecimal() and len(value) < 10]
    versions = [suites.find_version(db, viewer.project, value) for value in dict.fromkeys(wanted)]
    judge_id, endpoint_id = (int(text) if text.isdecimal() and len(text) < 10 else None for text in (judge, endpoint))
    job = jobs.start_suites(
        db,
        viewer.project,
        checkpoint=checkpoint,
        versions=versions,
        judge_id=judge_id,
        endpoint_id=endpoint_id,
        user=viewer.user,
    )
    return redirect(request, f"{root(viewer)}/jobs/{job.id}")


@router.get("/jobs/{job_id:int}")
def job_page(request: Request, viewer: CanView, db: Db, job_id: SmallId) -> Response:
    job = jobs.find_job(db, viewer.project, job_id)
    context = {
        "job": job,
        "seconds_left": jobs.seconds_left(job),
        "results": suite_results.results_of_job(db, job),
        "words": suite_words,
        "arms": [suite_words.arm(arm["name"]) for arm in job.plan["arms"]],
        "is_open": job.status in jobs.OPEN,
    }
    return render(request, "evaluations/jobs.html", context)


@router.post("/jobs/{job_id:int}/cancel")
def cancel(request: Request, viewer: CanRun, db: Db, job_id: SmallId) -> Response:
    job = jobs.cancel(db, viewer.project, job_id, user=viewer.user)
    return redirect(request, f"{root(viewer)}/jobs/{job.id}", "The evaluation is cancelled.")


@router.post("/jobs/{job_id:int}/again")
def again(request: Request, viewer: CanRun, db: Db, job_id: SmallId) -> Response:
    job = jobs.again(db, viewer.project, job_id, user=viewer.user)
    return redirect(request, f"{root(viewer)}/jobs/{job.id}", "It goes on where it was.")


@router.get("/results/{result_id:int}")
def result_page(
    request: Request,
    viewer: CanView,
    db: Db,
    result_id: SmallId,
    show: Literal["wrong", "failed", "refused", "all"] = "wrong",
    category: str = "",
    after: str | None = None,
) -> Response:
    row = suite_results.find_result(db, viewer.project, result_id)
    if category and category not in row.summary.get("by_category", {}):
        raise NotFoundError("This suite has no such category.")
    page = suite_results.answers(db, row, show, category, int_cursor(after))
    address = {"show": show, "category": category}
    older = f"{request.url.path}?{urlencode({**address, 'after': page.next_cursor})}" if page.next_cursor else None
    context = {
        "row": row,
        "answers": page.rows,
        "older": older,
        "newer": f"{request.url.path}?{urlencode(address)}" if after else None,
        "show": show,
        "category": category,
        "counts": suite_results.counts(row),
        "words": suite_words,
        "path": request.url.path,
    }
    return render(request, "evaluations/suite_result.html", context)
