"""Queues for leads: what waits and how long it will take; the form of a queue; filling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response

from app.accounts.access import Require, Viewer
from app.accounts.audit import record
from app.core.db import Db
from app.core.errors import InvalidError
from app.core.queue import enqueue
from app.feedback import browse, gold, queue_fill, queue_stats
from app.feedback.queue_stats import Progress
from app.models import AnnotationQueue
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/queues")
Lead = Annotated[Viewer, Depends(Require("queue.edit"))]
REFRESH = "worker.tasks.queues.refresh_queue"
STATES = (
    ("", "All"),
    ("unrated", "No rating yet"),
    ("split", "Both verdicts: they disagree"),
    ("low_coverage", "No rating, in a category with few labels"),
    ("desirable", "Desirable"),
    ("undesirable", "Undesirable"),
    ("tied", "Tied"),
)
NEW = {"name": "", "instructions": "", "overlap": "1", "gold_percent": "5", "category": "", "model": "", "source": ""}


@dataclass(frozen=True, slots=True)
class Line:
    queue: AnnotationQueue
    progress: Progress
    seconds: float | None
    """Per verdict."""

    @property
    def hours(self) -> float | None:
        """Of one person's work that are left, at the pace of the last verdicts."""
        return None if self.seconds is None else self.progress.left * self.seconds / 3600


def _page(request: Request, db: Db, viewer: Viewer, errors: dict[str, str], status: int = 200) -> Response:
    rows = [
        Line(queue, queue_stats.shown_progress(db, queue), queue_stats.queue_seconds(db, queue))
        for queue in queue_fill.list_queues(db, viewer.project)
    ]
    context = {"rows": rows, "errors": errors, "gold": gold.lines(db, viewer.project), "states": dict(STATES)}
    return render(request, "feedback/queues.html", context, status_code=status)


@router.get("")
def queues(request: Request, db: Db, viewer: Lead) -> Response:
    return _page(request, db, viewer, {})


def _form(
    request: Request,
    db: Db,
    viewer: Viewer,
    values: dict[str, Any],
    queue: AnnotationQueue | None,
    errors: dict[str, str] | None = None,
) -> Response:
    categories, models, sources = browse.choices(db, viewer.project)
    context = {
        "queue": queue,
        "values": {**NEW, "state": "", **values},
        "errors": errors or {},
        "states": STATES,
        "categories": categories,
        "models": models,
        "sources": sources,
    }
    return render(request, "feedback/queues_form.html", context, status_code=422 if errors else 200)


@router.get("/new")
def new_queue(request: Request, db: Db, viewer: Lead) -> Response:
    """Prefilled from a filter in the address, so that other pages can lead here."""
    values = {key: value[:200] for key, value in request.query_params.items() if key in (*NEW, "state")}
    return _form(request, db, viewer, values, None)


@router.get("/{queue_slug}/edit")
def edit_queue(request: Request, db: Db, viewer: Lead, queue_slug: str) -> Response:
    queue = queue_fill.get_queue(db, viewer.project, queue_slug)
    values = {
        "name": queue.name,
        "instructions": queue.instructions,
        "overlap": str(queue.overlap),
        "gold_percent": f"{100 * queue.gold_rate:g}",
        **queue.filter,
    }
    return _form(request, db, viewer, values, queue)


async def _fields(request: Request) -> dict[str, str]:
    return {key: value for key, value in (await request.form()).items() if isinstance(value, str)}


Fields = Annotated[dict[str, str], Depends(_fields)]


@router.post("")
def create_queue(request: Request, db: Db, viewer: Lead, fields: Fields) -> Response:
    try:
        queue = queue_fill.save_queue(db, viewer.project, fields)
    except InvalidError as error:
        return _form(request, db, viewer, fields, None, error.fields)
    return _saved(request, db, viewer, queue, "queue.created", "Queue created. What fits enters within seconds.")


@router.post("/{queue_slug}/edit")
def save_queue(request: Request, db: Db, viewer: Lead, queue_slug: str, fields: Fields) -> Response:
    queue = queue_fill.get_queue(db, viewer.project, queue_slug)
    try:
        queue_fill.save_queue(db, viewer.project, fields, queue_slug)
    except InvalidError as error:
        return _form(request, db, viewer, fields, queue, error.fields)
    return _saved(request, db, viewer, queue, "queue.changed", "Queue saved. What fits now enters within seconds.")


def _saved(request: Request, db: Db, viewer: Viewer, queue: AnnotationQueue, action: str, words: str) -> Response:
    details = {"filter": queue.filter, "overlap": queue.overlap, "gold_rate": queue.gold_rate}
    record(db, action, project_id=viewer.project.id, user_id=viewer.user.id, subject=queue.slug, **details)
    enqueue(db, REFRESH, queue.id)
    return redirect(request, f"/p/{viewer.project.slug}/queues", words)


@router.post("/{queue_slug}/open")
def open_or_close(
    request: Request, db: Db, viewer: Lead, queue_slug: str, is_open: Annotated[bool, Form()] = False
) -> Response:
    """A closed queue gives nothing out and takes nothing in; its verdicts stay."""
    queue = queue_fill.get_queue(db, viewer.project, queue_slug)
    if queue.is_open != is_open:
        queue.is_open = is_open
        action = "queue.opened" if is_open else "queue.closed"
        record(db, action, project_id=viewer.project.id, user_id=viewer.user.id, subject=queue.slug)
        if is_open:
            enqueue(db, REFRESH, queue.id)
    words = f"{queue.name} is {'open' if is_open else 'closed'}."
    return redirect(request, f"/p/{viewer.project.slug}/queues", words)


@router.post("/fill")
def fill(request: Request, db: Db, viewer: Lead) -> Response:
    """A slot for every completion without a rating."""
    queue = queue_fill.default_queue(db, viewer.project)
    made = queue_fill.queue_unlabelled(db, viewer.project, queue)
    record(db, "queue.filled", project_id=viewer.project.id, user_id=viewer.user.id, subject=queue.slug, slots=made)
    queue_stats.forget_progress(queue)
    enqueue(db, REFRESH, queue.id)
    words = (
        f"Queued {made:,} without a rating." if made else "Nothing to queue: every completion has a rating or waits."
    )
    return redirect(request, f"/p/{viewer.project.slug}/queues", words)


@router.post("/overlap")
def overlap(request: Request, db: Db, viewer: Lead, overlap: Annotated[str, Form()] = "") -> Response:
    """Wants so many annotators' verdicts on every completion."""
    queue = queue_fill.default_queue(db, viewer.project)
    try:
        wanted = int(overlap) if overlap.strip().isdecimal() and len(overlap) < 5 else 0
        made = queue_fill.queue_everything(db, viewer.project, queue, wanted)
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
    queue_stats.forget_progress(queue)
    return redirect(request, f"/p/{viewer.project.slug}/queues", f"Queued {made:,} more verdicts.")
