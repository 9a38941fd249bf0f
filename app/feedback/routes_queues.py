"""Queues for leads: what waits, instructions, filling."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response

from app.accounts.access import Require, Viewer
from app.accounts.audit import record
from app.core.db import Db
from app.core.errors import InvalidError
from app.feedback.queue_fill import (
    DEFAULT_QUEUE,
    default_queue,
    get_queue,
    list_queues,
    progress,
    queue_everything,
    queue_unlabelled,
)
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/queues")
Lead = Annotated[Viewer, Depends(Require("queue.edit"))]
MAX_INSTRUCTIONS = 5000


def _page(request: Request, db: Db, viewer: Viewer, errors: dict[str, str], status: int = 200) -> Response:
    rows = [(queue, progress(db, queue)) for queue in list_queues(db, viewer.project)]
    return render(request, "feedback/queues.html", {"rows": rows, "errors": errors}, status_code=status)


@router.get("")
def queues(request: Request, db: Db, viewer: Lead) -> Response:
    return _page(request, db, viewer, {})


@router.post("/fill")
def fill(request: Request, db: Db, viewer: Lead) -> Response:
    """A slot for every completion without a rating."""
    queue = default_queue(db, viewer.project)
    made = queue_unlabelled(db, viewer.project, queue)
    record(db, "queue.filled", project_id=viewer.project.id, user_id=viewer.user.id, subject=queue.slug, slots=made)
    words = (
        f"Queued {made:,} without a rating." if made else "Nothing to queue: every completion has a rating or waits."
    )
    return redirect(request, f"/p/{viewer.project.slug}/queues", words)


@router.post("/overlap")
def overlap(request: Request, db: Db, viewer: Lead, overlap: Annotated[str, Form()] = "") -> Response:
    """Wants so many annotators' verdicts on every completion."""
    queue = default_queue(db, viewer.project)
    try:
        wanted = int(overlap) if overlap.strip().isdecimal() and len(overlap) < 5 else 0
        made = queue_everything(db, viewer.project, queue, wanted)
    except InvalidError as error:
        return _page(request, db, viewer, error.fields, 422)
    record(
        db,
        "queue.overlap",
        project_id=viewer.project.id,
        user_id=viewer.user.id,
        subject=queue.slug,
        overlap=wanted,
        slots=made,
    )
    return redirect(request, f"/p/{viewer.project.slug}/queues", f"Queued {made:,} more verdicts.")


@router.post("/instructions")
def instructions(request: Request, db: Db, viewer: Lead, instructions: Annotated[str, Form()] = "") -> Response:
    """What annotators read beside each item, in Markdown."""
    if len(instructions) > MAX_INSTRUCTIONS or "\x00" in instructions:
        words = {"instructions": f"at most {MAX_INSTRUCTIONS:,} characters of text"}
        return _page(request, db, viewer, words, 422)
    default_queue(db, viewer.project)
    queue = get_queue(db, viewer.project, DEFAULT_QUEUE)
    queue.instructions = instructions.strip()
    record(db, "queue.instructions", project_id=viewer.project.id, user_id=viewer.user.id, subject=queue.slug)
    return redirect(request, f"/p/{viewer.project.slug}/queues", "Instructions saved.")
