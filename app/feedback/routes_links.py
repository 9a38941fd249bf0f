"""Feedback links: the API makes a pair, the page behind one asks before it writes, because mail scanners open links too."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.accounts.access import KeyHolder, Public, RequireKey
from app.core.db import Db
from app.core.errors import NotFoundError
from app.feedback.api_parts import require_json
from app.feedback.links import DEFAULT_HOURS, MAX_HOURS, Opened, confirm, make_links, open_link, take_back
from app.feedback.messages import check_storable
from app.web.address import public_address
from app.web.htmx import redirect
from app.web.openapi import BEARER, error_answers
from app.web.templating import render

MAX_EXCERPT = 1200
MAX_COMMENT = 2000

api = APIRouter(prefix="/api/v1", tags=["feedback"], dependencies=[BEARER])
router = APIRouter(include_in_schema=False, dependencies=[Depends(Public())])


class LinkRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"completion_id": "msg-5521", "rater": "customer-81", "expires_in_hours": 72}]},
    )

    completion_id: str = Field(min_length=1, max_length=200)
    """The app's own id of a stored output."""
    rater: str | None = Field(None, min_length=1, max_length=200)
    """Who gets the links; their later verdict replaces the earlier one. Without it the output has one rater."""
    expires_in_hours: int = Field(DEFAULT_HOURS, ge=1, le=MAX_HOURS)
    """How long the links work, at most 90 days."""

    @field_validator("completion_id", "rater")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        check_storable(value, "it")
        return value


class LinkPair(BaseModel):
    up: str
    """Address of the page that begins with a thumb up."""
    down: str
    expires_at: datetime


@api.post(
    "/feedback/links",
    summary="Make feedback links for a message",
    dependencies=[Depends(require_json)],
    responses=error_answers(404, 413, 415, 422),
)
def new_links(
    request: Request, db: Db, holder: Annotated[KeyHolder, Depends(RequireKey("feedback:write"))], body: LinkRequest
) -> LinkPair:
    """Two addresses for an e-mail: thumb up and thumb down on one output, without an account.

    Each opens a page that shows the answer and asks for one click; opening alone writes nothing. Until they expire, the verdict
    can be changed or taken back there. Its source is `link`. Revoking the key ends the links made with it.
    """
    up, down, ends = make_links(
        db, holder.project, holder.key, body.completion_id, rater=body.rater, hours=body.expires_in_hours
    )
    start = f"{public_address(request)}/rate/"
    return LinkPair(up=start + up, down=start + down, expires_at=ends)


def _page(request: Request, opened: Opened, token: str, *, status_code: int = 200, **more: Any) -> Response:
    text = opened.completion.text.strip()
    context = {
        "opened": opened,
        "token": token,
        "excerpt": text[:MAX_EXCERPT].rstrip() + (" …" if len(text) > MAX_EXCERPT else ""),
        "value": opened.rating.value if opened.rating else opened.link.value,
        "comment": (opened.rating.comment if opened.rating else "") or "",
        "change": False,
        "errors": {},
        **more,
    }
    return render(request, "feedback/link.html", context, status_code=status_code)


def _ended(request: Request, error: NotFoundError) -> Response:
    return render(request, "feedback/link_ended.html", {"error": error}, status_code=404)


@router.get("/rate/{token}")
def link_page(request: Request, db: Db, token: str, change: bool = False) -> Response:
    """Reads only. ``change``: the form again, for a person who has confirmed before."""
    try:
        opened = open_link(db, token)
    except NotFoundError as error:
        return _ended(request, error)
    return _page(request, opened, token, change=change)


@router.post("/rate/{token}")
def link_confirm(
    request: Request,
    db: Db,
    token: str,
    value: Annotated[str, Form()] = "",
    comment: Annotated[str, Form()] = "",
) -> Response:
    """``value``: up, down or none, which takes the verdict back."""
    try:
        opened = open_link(db, token)
    except NotFoundError as error:
        return _ended(request, error)
    words = comment.replace("\r\n", "\n").strip()
    errors = _mistakes(value, words)
    if errors:
        typed = {"value": value == "up", "comment": comment, "change": True, "errors": errors}
        return _page(request, opened, token, status_code=422, **typed)
    if value == "none":
        take_back(db, opened)
    else:
        confirm(db, opened, value == "up", words)
    return redirect(request, f"/rate/{token}")


def _mistakes(value: str, comment: str) -> dict[str, str]:
    errors = {}
    if value not in {"up", "down", "none"}:
        errors["value"] = "choose thumb up or thumb down"
    if len(comment) > MAX_COMMENT:
        errors["comment"] = f"has {len(comment):,} characters; at most {MAX_COMMENT:,} are kept"
    try:
        check_storable(comment, "comment")
    except ValueError as error:
        errors["comment"] = str(error)
    return errors
