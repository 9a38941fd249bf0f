"""The label rule's page with its preview, and what an annotator's hour costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from app.accounts.access import Require, Viewer
from app.core.clock import utcnow
from app.core.db import Db
from app.core.errors import InvalidError
from app.datasets.collection import save_cost
from app.datasets.previews import preview
from app.datasets.readiness import readiness
from app.datasets.rules import LabelRule, load_rule, parse_rule, save_rule
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/readiness")
Watcher = Annotated[Viewer, Depends(Require("snapshot.view"))]
Lead = Annotated[Viewer, Depends(Require("snapshot.freeze"))]
FIELDS = ("votes", "min_votes", "min_share", "max_rater_share")


def _typed(rule: LabelRule) -> dict[str, str]:
    """The rule as the form shows it: shares in per cent."""
    cap = rule.max_rater_share
    return {
        "votes": rule.votes,
        "min_votes": str(rule.min_votes),
        "min_share": f"{rule.min_share * 100:g}",
        "max_rater_share": "" if cap is None else f"{cap * 100:g}",
    }


def _context(db: Session, viewer: Viewer, typed: Mapping[str, str] | None) -> dict[str, Any]:
    errors: dict[str, str] = {}
    try:
        now = load_rule(viewer.project)
    except InvalidError as error:  # written by a later version: the page is where it is mended
        now, errors = LabelRule(), {"": f"{error.message} The plain majority is shown."}
    then = now
    if typed is not None:
        try:
            then = parse_rule(typed)
        except InvalidError as error:
            errors |= error.fields
    shown = dict(typed) if typed is not None else _typed(now)
    looked = preview(db, viewer.project, now, then) if not errors else None
    return {"rule": now, "rule_then": then, "typed": shown, "errors": errors, "preview": looked}


@router.get("/rule")
def rule_page(request: Request, db: Db, viewer: Watcher) -> Response:
    """With a rule in the address its preview: the whole page, or the part alone for the script."""
    typed = {name: request.query_params[name] for name in FIELDS if name in request.query_params}
    context = _context(db, viewer, typed or None)
    part = "hx-request" in request.headers
    return render(request, "datasets/_rule_preview.html" if part else "datasets/rule.html", context)


@router.post("/rule")
def rule_save(
    request: Request,
    db: Db,
    viewer: Lead,
    votes: Annotated[str, Form()] = "majority",
    min_votes: Annotated[str, Form()] = "1",
    min_share: Annotated[str, Form()] = "",
    max_rater_share: Annotated[str, Form()] = "",
) -> Response:
    typed = dict(zip(FIELDS, (votes, min_votes, min_share, max_rater_share), strict=True))
    try:
        rule = parse_rule(typed)
    except InvalidError as error:
        return render(request, "datasets/rule.html", _context(db, viewer, typed), status_code=error.status)
    save_rule(db, viewer.project, rule, viewer.user)
    return redirect(request, f"/p/{viewer.project.slug}/readiness", "Label rule saved. The next snapshot uses it.")


@router.post("/cost")
def cost_save(
    request: Request,
    db: Db,
    viewer: Lead,
    per_hour: Annotated[str, Form()] = "",
    currency: Annotated[str, Form()] = "",
) -> Response:
    try:
        save_cost(db, viewer.project, per_hour, currency, viewer.user)
    except InvalidError as error:
        context = {
            "readiness": readiness(db, viewer.project),
            "computed_at": utcnow(),
            "refusal": None,
            "cost_errors": error.fields,
            "cost_typed": {"per_hour": per_hour, "currency": currency},
        }
        return render(request, "datasets/readiness.html", context, status_code=error.status)
    return redirect(request, f"/p/{viewer.project.slug}/readiness#cost", "Hourly rate saved.")
