"""The annotation page. Every state change is a form post that works without script; the script asks for parts of the page."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import ConflictError, InvalidError
from app.feedback import queue as claims
from app.feedback.messages import shown_turns
from app.feedback.queue_fill import get_queue, list_queues, progress
from app.models import AnnotationQueue
from app.web.flash import set_flash
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/annotate")
Rater = Annotated[Viewer, Depends(Require("rating.create"))]

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
_SAID = {"up": "Saved: desirable.", "down": "Saved: undesirable.", "skip": "Skipped."}
PART = "x-annotate-part"


def _context(
    db: Session, queue: AnnotationQueue, viewer: Viewer, items: list[claims.Item], on_screen: int | None = None
) -> dict[str, Any]:
    """What the page and its parts show. ``on_screen``: the slot that the page shows already, or should show first."""
    item = next((item for item in items if item.slot.id == on_screen), items[0] if items else None)
    following = next((other for other in items if item is not None and other.slot.id != item.slot.id), None)
    return {
        "queue": queue,
        "item": item,
        "following": following,
        "progress": progress(db, queue),
        "history": claims.last_done(db, queue, viewer.user),
        "reasons": REASONS,
        "default_instructions": DEFAULT_INSTRUCTIONS,
        "turns": shown_turns,
    }


def _answer(
    request: Request,
    db: Session,
    queue: AnnotationQueue,
    viewer: Viewer,
    *,
    on_screen: int | None = None,
    said: str = "",
) -> Response:
    """After a state change: the parts that changed for the script, else back to the page."""
    items = claims.hold(db, queue, viewer.user)
    if PART not in request.headers:
        back = RedirectResponse(f"/p/{viewer.project.slug}/annotate/{queue.slug}", 303)
        return set_flash(back, said) if said else back
    context = _context(db, queue, viewer, items, on_screen)
    return render(request, "feedback/annotate_parts.html", context)


@router.get("")
def annotate(request: Request, db: Db, viewer: Rater) -> Response:
    """The one queue, or the choice between several."""
    queues = list_queues(db, viewer.project)
    if len(queues) == 1:
        return RedirectResponse(f"/p/{viewer.project.slug}/annotate/{queues[0].slug}", 303)
    rows = [(queue, progress(db, queue)) for queue in queues]
    return render(request, "feedback/annotate_choice.html", {"rows": rows})


@router.get("/{queue_slug}")
def annotate_queue(request: Request, db: Db, viewer: Rater, queue_slug: str) -> Response:
    """What the person holds. Looking claims nothing: `Start` does, or the script at once."""
    queue = get_queue(db, viewer.project, queue_slug)
    context = _context(db, queue, viewer, claims.held(db, queue, viewer.user))
    context["any_free"] = context["item"] is None and claims.any_free(db, queue, viewer.user)
    return render(request, "feedback/annotate.html", context)


@router.post("/{queue_slug}/claim")
def claim(
    request: Request, db: Db, viewer: Rater, queue_slug: str, on_screen: Annotated[int | None, Form()] = None
) -> Response:
    queue = get_queue(db, viewer.project, queue_slug)
    return _answer(request, db, queue, viewer, on_screen=on_screen)


@router.post("/{queue_slug}/verdict")
def verdict(
    request: Request,
    db: Db,
    viewer: Rater,
    queue_slug: str,
    slot: Annotated[int, Form(ge=1, le=2**63 - 1)],
    value: Annotated[str, Form()],
    reason: Annotated[list[str], Form()] = [],  # noqa: B006 -- FastAPI copies defaults
    comment: Annotated[str, Form()] = "",
    on_screen: Annotated[int | None, Form()] = None,
) -> Response:
    """Saves a verdict and claims what comes next in the same transaction."""
    queue = get_queue(db, viewer.project, queue_slug)
    if value not in VERDICTS:
        raise InvalidError("That is no verdict.", fields={"value": "up, down or skip"})
    known = {key for key, _ in REASONS}
    reasons = [key for key in reason if key in known]
    try:
        claims.decide(db, queue, viewer.user, slot, VERDICTS[value], reasons=reasons, comment=_clean(comment) or None)
    except ConflictError as error:
        if PART in request.headers:
            raise
        return _answer(request, db, queue, viewer, said=error.message)
    return _answer(request, db, queue, viewer, on_screen=on_screen, said=_SAID[value])


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
    said = "Taken back." if reopened is not None else "There is nothing to undo."
    return _answer(request, db, queue, viewer, on_screen=reopened, said=said)


@router.post("/{queue_slug}/heartbeat")
def heartbeat(db: Db, viewer: Rater, queue_slug: str) -> Response:
    claims.renew(db, get_queue(db, viewer.project, queue_slug), viewer.user)
    return Response(status_code=204)


@router.post("/{queue_slug}/release")
def release(db: Db, viewer: Rater, queue_slug: str) -> Response:
    """The page was left: its items are free for others at once."""
    claims.release(db, get_queue(db, viewer.project, queue_slug), viewer.user)
    return Response(status_code=204)
