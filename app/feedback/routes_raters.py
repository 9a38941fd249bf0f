"""Raters and adjudication: pages for leads, and agreement as CSV."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError, NotFoundError
from app.feedback import adjudication
from app.feedback.messages import shown_turns
from app.feedback.queue_fill import list_queues
from app.feedback.raters import RaterFigures, figures, list_raters
from app.feedback.raters_agreement import AgreementTable, agreement_table
from app.feedback.raters_bursts import bursts
from app.feedback.raters_charts import rater_charts
from app.feedback.raters_decide import decide_weight
from app.feedback.raters_flags import flags
from app.feedback.raters_names import rater_names
from app.feedback.raters_votes import rater_pairs, vote_patterns
from app.web.flash import set_flash
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}")
Watcher = Annotated[Viewer, Depends(Require("rater.view"))]
Lead = Annotated[Viewer, Depends(Require("rater.edit"))]
VERDICTS = {"up": True, "down": False, "skip": None}
MEASURES = {
    "percent": "Percent agreement",
    "fleiss": "Fleiss kappa",
    "alpha": "Krippendorff alpha",
    "ac1": "Gwet AC1",
}


@router.get("/raters")
def raters_page(request: Request, db: Db, viewer: Watcher, cursor: str = "") -> Response:
    page = list_raters(db, viewer.project, cursor)
    found = bursts(db, viewer.project)
    in_bursts = {(burst.source, rater) for burst in found for rater in burst.newcomers}
    marked = [(item, flags(item, in_burst=(item.source, item.rater) in in_bursts)) for item in page.rows]
    context = {
        "rows": marked,
        "next_cursor": page.next_cursor,
        "cursor": cursor,
        "agreement": agreement_table(vote_patterns(db, viewer.project.id)),
        "charts": rater_charts(page.rows),
        "bursts": found,
        "num_open": adjudication.num_open(db, viewer.project),
    }
    return render(request, "feedback/raters.html", context)


def _one(db: Session, viewer: Viewer, source: str, rater: str) -> RaterFigures:
    found = figures(db, viewer.project, [(source, rater)]) if "\x00" not in source + rater else []
    if not found:
        raise NotFoundError("There is no such rater in this project.", remedy="Choose one from the list of raters.")
    return found[0]


def _rater_context(db: Session, viewer: Viewer, source: str, rater: str) -> dict[str, Any]:
    item = _one(db, viewer, source, rater)
    newcomers = {(burst.source, who) for burst in bursts(db, viewer.project) for who in burst.newcomers}
    return {
        "item": item,
        "flags": flags(item, in_burst=(source, rater) in newcomers),
        "errors": {},
        "typed": {"weight": f"{item.weight * 100:g}", "reason": item.reason},
    }


@router.get("/raters/one")
def rater_page(request: Request, db: Db, viewer: Watcher, source: str = "", rater: str = "") -> Response:
    if not source and not rater:  # the address without a name: the list is where one is chosen
        return RedirectResponse(f"/p/{viewer.project.slug}/raters", 303)
    return render(request, "feedback/raters_one.html", _rater_context(db, viewer, source, rater))


@router.post("/raters/weight")
def rater_weight(
    request: Request,
    db: Db,
    viewer: Lead,
    source: Annotated[str, Form()] = "",
    rater: Annotated[str, Form()] = "",
    weight: Annotated[str, Form()] = "",
    reason: Annotated[str, Form()] = "",
) -> Response:
    try:
        decide_weight(db, viewer.project, source, rater, weight, reason, viewer.user)
    except InvalidError as error:
        context = _rater_context(db, viewer, source, rater)
        context |= {"errors": error.fields, "typed": {"weight": weight, "reason": reason}}
        return render(request, "feedback/raters_one.html", context, status_code=error.status)
    return redirect(request, f"/p/{viewer.project.slug}/raters", "Saved. The next snapshot counts with it.")


@router.get("/raters/agreement.csv")
def agreement_csv(db: Db, viewer: Watcher) -> Response:
    """Every measure over the project and per queue, and Cohen's kappa of pairs of annotators."""
    project = viewer.project
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["scope", "name", "measure", "value", "low_95", "high_95", "items"])
    _write_measures(table, "project", project.name, agreement_table(vote_patterns(db, project.id)))
    for queue in list_queues(db, project):
        _write_measures(table, "queue", queue.name, agreement_table(vote_patterns(db, project.id, queue.id)))
    annotators = [item.rater for item in list_raters(db, project).rows if item.source == "annotation"]
    names = rater_names(db, annotators)
    for pair in rater_pairs(db, project.id, annotators):
        name = f"{names.get(pair.first, pair.first)} and {names.get(pair.second, pair.second)}"
        found = pair.kappa
        table.writerow(["pair", _safe(name), "Cohen kappa", *_rounded(found.value, found.low, found.high), found.items])
    headers = {"content-disposition": f'attachment; filename="{project.slug}-agreement.csv"'}
    return Response("\ufeff" + out.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _write_measures(table: Any, scope: str, name: str, found: AgreementTable | None) -> None:
    for key, words in MEASURES.items():
        if found is not None:
            figure = getattr(found, key)
            row = [*_rounded(figure.value, figure.low, figure.high), figure.items]
            table.writerow([scope, _safe(name), words, *row])


def _rounded(*values: float) -> list[str]:
    return [f"{value:.6f}" for value in values]


def _safe(cell: str) -> str:
    """A name that a spreadsheet would run as a formula is text."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


@router.get("/adjudicate")
def adjudicate_page(
    request: Request, db: Db, viewer: Lead, after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0
) -> Response:
    item = adjudication.next_split(db, viewer.project, after)
    context = {
        "item": item,
        "after": after,
        "num_open": adjudication.num_open(db, viewer.project),
        "turns": shown_turns,
    }
    return render(request, "feedback/adjudicate.html", context)


@router.post("/adjudicate/verdict")
def adjudicate_verdict(
    db: Db,
    viewer: Lead,
    completion_id: Annotated[int, Form(ge=1, le=2**63 - 1)],
    value: Annotated[str, Form()],
    comment: Annotated[str, Form()] = "",
) -> Response:
    """Saves, and goes to the next one."""
    if value not in VERDICTS:
        raise InvalidError("That is no verdict.", fields={"value": "up, down or skip"})
    words = comment.replace("\x00", "").strip()
    if len(words) > 2000:
        raise InvalidError("The comment is too long.", fields={"comment": "at most 2,000 characters"})
    verdict = VERDICTS[value]
    if verdict is not None:
        adjudication.adjudicate(db, viewer.project, completion_id, verdict, viewer.user, words)
    said = {"up": "Decided: desirable.", "down": "Decided: undesirable.", "skip": "Skipped."}[value]
    return set_flash(_back(viewer, completion_id), said)


@router.post("/adjudicate/undo")
def adjudicate_undo(db: Db, viewer: Lead) -> Response:
    reopened = adjudication.undo(db, viewer.project, viewer.user)
    said = "Taken back." if reopened is not None else "There is nothing to undo."
    return set_flash(_back(viewer, reopened - 1 if reopened is not None else 0), said)


def _back(viewer: Viewer, after: int) -> RedirectResponse:
    return RedirectResponse(f"/p/{viewer.project.slug}/adjudicate?after={after}", 303)
