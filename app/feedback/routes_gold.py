"""Gold items: a lead says on a completion's page which verdict is right."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request, Response

from app.accounts.access import Require, Viewer
from app.accounts.audit import record
from app.core.db import Db
from app.core.errors import InvalidError
from app.feedback import browse, gold
from app.feedback.schemas import BigId
from app.web.htmx import is_htmx, redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/gold")
Lead = Annotated[Viewer, Depends(Require("queue.edit"))]
Id = Annotated[int, Query(ge=1, le=2**63 - 1)]


@router.get("/item")
def gold_of(request: Request, db: Db, viewer: Lead, completion_id: Id) -> Response:
    """The card on a completion's page; without script a page of its own."""
    completion = browse.get_completion(db, viewer.project, completion_id)
    context = {"completion": completion, "item": gold.of_completion(db, viewer.project, completion_id)}
    return render(request, "feedback/_gold.html" if is_htmx(request) else "feedback/gold.html", context)


@router.post("")
def mark_gold(
    request: Request,
    db: Db,
    viewer: Lead,
    completion_id: Annotated[int, Form(ge=1, le=2**63 - 1)],
    value: Annotated[str, Form()],
    note: Annotated[str, Form()] = "",
) -> Response:
    completion = browse.get_completion(db, viewer.project, completion_id)
    if value not in ("up", "down"):
        raise InvalidError("That is no verdict.", fields={"value": "up or down"})
    words = note.replace("\x00", "")
    item = gold.mark(db, viewer.project, completion, viewer.user, value=value == "up", note=words)
    details = {"completion": completion.id, "value": item.value}
    record(
        db, "gold.marked", project_id=viewer.project.id, user_id=viewer.user.id, subject=f"gold {item.id}", **details
    )
    said = f"A gold item: {'desirable' if item.value else 'undesirable'}."
    return redirect(request, f"/p/{viewer.project.slug}/completions/{completion.id}", said)


@router.post("/{gold_id}/retire")
def retire_gold(request: Request, db: Db, viewer: Lead, gold_id: BigId) -> Response:
    item = gold.retire(db, viewer.project, gold_id)
    record(db, "gold.retired", project_id=viewer.project.id, user_id=viewer.user.id, subject=f"gold {item.id}")
    return redirect(request, f"/p/{viewer.project.slug}/queues", "Retired: nobody gets it any more. Answers stay.")
