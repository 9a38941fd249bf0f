"""Bulk labels: from the filter of the completions list to one verdict on all that it finds."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request, Response

from app.accounts.access import Require, Viewer
from app.accounts.audit import record
from app.core.db import Db
from app.core.errors import InvalidError
from app.feedback import bulk_labels
from app.feedback.filters import Filter
from app.feedback.messages import shown_turns
from app.feedback.schemas import BigId
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/bulk")
Lead = Annotated[Viewer, Depends(Require("queue.edit"))]
Words = Annotated[str, Query(max_length=200)]
Typed = Annotated[str, Form(max_length=200)]


def _filter(category: str, model: str, state: str, text: str, source: str) -> Filter:
    return Filter(*(value.replace("\x00", "").strip() for value in (category, model, state, text, source)))


def _page(
    request: Request, db: Db, viewer: Viewer, wanted: Filter, reason: str = "", errors: dict[str, str] | None = None
) -> Response:
    context = {
        "wanted": wanted,
        "found": bulk_labels.preview(db, viewer.project, wanted),
        "recent": bulk_labels.recent(db, viewer.project),
        "limit": bulk_labels.LIMIT,
        "reason": reason,
        "errors": errors or {},
        "turns": shown_turns,
    }
    return render(request, "feedback/bulk.html", context, status_code=422 if errors else 200)


@router.get("")
def bulk(
    request: Request,
    db: Db,
    viewer: Lead,
    category: Words = "",
    model: Words = "",
    state: Words = "",
    q: Words = "",
    source: Words = "",
) -> Response:
    """How many the filter finds, some of them, and the two buttons. Takes the list's own address parameters."""
    return _page(request, db, viewer, _filter(category, model, state, q, source))


@router.post("")
def apply_bulk(
    request: Request,
    db: Db,
    viewer: Lead,
    value: Annotated[str, Form()],
    through: Annotated[int, Form(ge=0, le=2**63 - 1)] = 0,
    category: Typed = "",
    model: Typed = "",
    state: Typed = "",
    q: Typed = "",
    source: Typed = "",
    reason: Annotated[str, Form()] = "",
) -> Response:
    """Labels what the preview counted; the second of two clicks changes nothing."""
    if value not in ("up", "down"):
        raise InvalidError("That is no verdict.", fields={"value": "up or down"})
    wanted = _filter(category, model, state, q, source)
    try:
        made = bulk_labels.apply(
            db, viewer.project, viewer.user, wanted, value=value == "up", through=through, reason=reason
        )
    except InvalidError as error:
        return _page(request, db, viewer, wanted, reason, error.fields)
    base = f"/p/{viewer.project.slug}"
    if made is None:
        return redirect(request, f"{base}/bulk", "Nothing to change: all of these have this verdict of yours.")
    record(
        db,
        "bulk.labelled",
        project_id=viewer.project.id,
        user_id=viewer.user.id,
        subject=f"bulk {made.id}",
        filter=made.filter,
        value=made.value,
        labelled=made.num_labelled,
    )
    words = f"{made.num_labelled:,} labelled {'desirable' if made.value else 'undesirable'}."
    return redirect(request, f"{base}/bulk", words, f"{base}/bulk/{made.id}/undo")


@router.post("/{bulk_id}/undo")
def undo_bulk(request: Request, db: Db, viewer: Lead, bulk_id: BigId) -> Response:
    taken = bulk_labels.undo(db, viewer.project, bulk_id)
    record(
        db,
        "bulk.undone",
        project_id=viewer.project.id,
        user_id=viewer.user.id,
        subject=f"bulk {bulk_id}",
        taken_back=taken,
    )
    return redirect(request, f"/p/{viewer.project.slug}/bulk", f"{taken:,} taken back. Former verdicts count again.")
