"""The annotation page. Every state change is a form post that works without script; the script asks for parts of the page."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.orm import Session
from starlette.datastructures import FormData

from app.accounts.access import Require, Viewer, guard_now
from app.core.db import Db, after_commit, session_scope
from app.core.errors import ConflictError, InvalidError
from app.feedback import key_map, queue_stats
from app.feedback import queue as claims
from app.feedback.edits import checked_edit
from app.feedback.messages import shown_turns
from app.feedback.pii import policy_of, screen_values
from app.feedback.queue_fill import get_queue, list_queues
from app.models import AnnotationQueue
from app.web.flash import set_flash
from app.web.shortcut import LeanRoute
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/annotate")
Rater = Annotated[Viewer, Depends(Require("rating.create"))]
# The one route of the pages that people wait for at every key: FastAPI's work on its parameters took longer than its own.
lean = APIRouter(dependencies=[Depends(Require("rating.create"))], route_class=LeanRoute)

REASONS = (
    ("wrong_fact", "Wrong fact"),
    ("off_topic", "Off topic"),
    ("unsafe", "Unsafe"),
    ("tone", "Tone"),
    ("too_long", "Too long"),
    ("format", "Format"),
)
DEFAULT_INSTRUCTIONS = "Would you be content to send this answer to the person who asked, as it stands?"
VERDICTS = {"up": True, "down": False, "skip": None}
MAX_TOOK_MS = 3_600_000
LOOK_ANEW = 10
"""Each so many verdicts the claim looks from the head of the queue: what came to be wanted more meanwhile is found."""
_at_once = CapacityLimiter(3)
"""Verdicts of one process: more threads than these take one another's time and save nobody's."""
_SAID = {"up": "Saved: desirable.", "down": "Saved: undesirable.", "skip": "Skipped."}
PART = "x-annotate-part"


def _parts(request: Request, db: Session, queue: AnnotationQueue, viewer: Viewer, context: dict[str, Any]) -> Response:
    """What a state change made of the page, for the script."""
    whole = {
        "queue": queue,
        "progress": queue_stats.progress(db, queue) if context["none_left"] else None,
        "history": None,
        "turns": shown_turns,
        "keys": key_map.keys_of(viewer.user),
        "shown_key": key_map.shown_key,
    }
    return render(request, "feedback/annotate_parts.html", whole | context)


def _back(viewer: Viewer, queue: AnnotationQueue, said: str) -> Response:
    back = RedirectResponse(f"/p/{viewer.project.slug}/annotate/{queue.slug}", 303)
    return set_flash(back, said) if said else back


def _move(db: Session, queue: AnnotationQueue, by: int) -> None:
    after_commit(db, lambda: queue_stats.move_progress(queue, by))


@router.get("")
def annotate(request: Request, db: Db, viewer: Rater) -> Response:
    """The one open queue, or the choice between several."""
    queues = [queue for queue in list_queues(db, viewer.project) if queue.is_open]
    if len(queues) == 1:
        return RedirectResponse(f"/p/{viewer.project.slug}/annotate/{queues[0].slug}", 303)
    rows = [(queue, queue_stats.shown_progress(db, queue)) for queue in queues]
    return render(request, "feedback/annotate_choice.html", {"rows": rows})


@router.get("/{queue_slug}")
def annotate_queue(request: Request, db: Db, viewer: Rater, queue_slug: str) -> Response:
    """What the person holds. Looking claims nothing: `Start` does, or the script at once."""
    queue = get_queue(db, viewer.project, queue_slug)
    items = claims.held(db, queue, viewer.user)
    open_now = queue.is_open and not items
    context = {
        "queue": queue,
        "item": items[0] if items else None,
        "following": items[1] if len(items) > 1 else None,
        "any_free": open_now and claims.any_free(db, queue, viewer.user),
        "progress": queue_stats.shown_progress(db, queue),
        "pace": queue_stats.own_pace(db, queue, viewer.user),
        "history": claims.last_done(db, queue, viewer.user),
        "reasons": REASONS,
        "default_instructions": DEFAULT_INSTRUCTIONS,
        "turns": shown_turns,
        "keys": key_map.keys_of(viewer.user),
        "shown_key": key_map.shown_key,
    }
    return render(request, "feedback/annotate.html", context)


@router.post("/{queue_slug}/claim")
def claim(
    request: Request,
    db: Db,
    viewer: Rater,
    queue_slug: str,
    have: Annotated[list[int], Form(max_length=8)] = [],  # noqa: B006
) -> Response:
    """The first items, or what is missing after a lost lease. ``have``: slots that the page shows or keeps already."""
    queue = get_queue(db, viewer.project, queue_slug)
    mine = claims.hold_ids(db, queue, viewer.user) if queue.is_open else claims.held_ids(db, queue, viewer.user)
    if PART not in request.headers:
        return _back(viewer, queue, "")
    fresh = claims.items(db, [slot for slot in mine if slot not in have])
    return _parts(request, db, queue, viewer, {"items": fresh, "none_left": not mine})


class Given(BaseModel):
    """A verdict's form."""

    slot: int = Field(ge=1, le=2**63 - 1)
    value: str
    reason: list[str] = Field([], max_length=20)
    comment: str = ""
    correction: str = ""
    took_ms: int | None = None
    have: list[int] = Field([], max_length=8)
    csrf_token: str = ""


def _given(form: FormData) -> Given:
    """Raises InvalidError."""
    said: dict[str, Any] = {name: value for name, value in form.items() if value != ""}
    for name in ("reason", "have"):
        said[name] = form.getlist(name)
    try:
        return Given.model_validate(said)
    except ValidationError as error:
        fields = {".".join(map(str, each["loc"])): each["msg"] for each in error.errors()}
        raise InvalidError("Some values do not fit.", fields=fields) from None


@lean.post("/{queue_slug}/verdict")  # noqa: FAST003 -- read from the request
async def verdict(request: Request) -> Response:
    """Saves a verdict and claims what comes next in the same transaction."""
    async with request.form() as form:
        given = _given(form)
    return await to_thread.run_sync(_verdict, request, given, limiter=_at_once)


def _verdict(request: Request, given: Given) -> Response:
    with session_scope() as db:
        viewer = guard_now(request, db, "rating.create", request.headers.get("x-csrf-token", given.csrf_token))
        return _decide(request, db, viewer, given)


def _decide(request: Request, db: Session, viewer: Viewer, given: Given) -> Response:
    queue = get_queue(db, viewer.project, request.path_params["queue_slug"])
    value, slot = given.value, given.slot
    if value not in VERDICTS:
        raise InvalidError("That is no verdict.", fields={"value": "up, down or skip"})
    known = {key for key, _ in REASONS}
    reasons = [key for key in dict.fromkeys(given.reason) if key in known]
    edit = checked_edit(given.correction) if value == "down" else None
    words = _clean(given.comment)
    took = min(max(given.took_ms, 0), MAX_TOOK_MS) if given.took_ms is not None else None
    try:
        done = claims.settle(
            db,
            queue,
            viewer.user,
            slot,
            VERDICTS[value],
            reasons=reasons,
            comment=screen_values(policy_of(viewer.project), {"comment": words})[0].get("comment", words) or None,
            took_ms=took,
            correction=edit,
        )
    except ConflictError as error:
        if PART in request.headers:
            raise
        return _back(viewer, queue, error.message)
    if done.is_new:
        _move(db, queue, 1)  # a hidden gold item too: that the bar stood still would tell of it
    place = None if slot % LOOK_ANEW == 0 else done.place
    mine = (
        claims.hold_ids(db, queue, viewer.user, after=place)
        if queue.is_open
        else claims.held_ids(db, queue, viewer.user)
    )
    if PART not in request.headers:
        return _back(viewer, queue, _SAID[value])
    fresh = claims.items(db, [other for other in mine if other not in given.have])
    return _parts(request, db, queue, viewer, {"items": fresh, "none_left": not mine})


def _clean(comment: str) -> str:
    """Raises InvalidError for a comment that is too long."""
    words = comment.replace("\x00", "").strip()
    if len(words) > 2000:
        raise InvalidError("The comment is too long.", fields={"comment": "at most 2,000 characters"})
    return words


@router.post("/{queue_slug}/undo")
def undo(request: Request, db: Db, viewer: Rater, queue_slug: str) -> Response:
    """Takes the newest own verdict back and shows its item again."""
    queue = get_queue(db, viewer.project, queue_slug)
    reopened = claims.undo(db, queue, viewer.user)
    if reopened is not None:
        _move(db, queue, -1)
    if PART not in request.headers:
        return _back(viewer, queue, "Taken back." if reopened is not None else "There is nothing to undo.")
    mine = claims.held_ids(db, queue, viewer.user)
    first = [reopened] if reopened is not None else []
    items = claims.items(db, (first + [slot for slot in mine if slot != reopened])[:2])
    history = claims.last_done(db, queue, viewer.user)
    context = {"items": items, "none_left": not items, "history": history, "reopened": reopened}
    return _parts(request, db, queue, viewer, context)


@router.post("/{queue_slug}/heartbeat")
def heartbeat(db: Db, viewer: Rater, queue_slug: str) -> Response:
    """Five more minutes, whatever else the queue holds; tells how far everyone is."""
    queue = get_queue(db, viewer.project, queue_slug)
    renewed = claims.renew(db, queue, viewer.user)
    progress = queue_stats.shown_progress(db, queue)
    return JSONResponse({"held": renewed, "done": progress.done, "total": progress.total})


@router.post("/{queue_slug}/release")
def release(db: Db, viewer: Rater, queue_slug: str) -> Response:
    """The page was left: its items are free for others at once."""
    claims.release(db, get_queue(db, viewer.project, queue_slug), viewer.user)
    return Response(status_code=204)


router.include_router(lean)
