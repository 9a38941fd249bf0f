"""The JSON API for apps: send thumbs, take them back, read what was stored. A 2xx answer means that it is on disk."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from app.accounts.key_check import bearer_hash
from app.core.db import Db
from app.core.errors import InvalidError, StudioError
from app.core.pagination import int_cursor, page_of
from app.feedback import api_completions, api_logs
from app.feedback.api_parts import (
    KEY_HEADER,
    Body,
    PageWriter,
    Reader,
    Writer,
    batch_body,
    batch_items,
    batch_result,
    body_of,
    check_source,
    json_body,
    require_json,
    source_of,
    split_good,
)
from app.feedback.hot import Ask, RequireKeyInBatch, send
from app.feedback.idempotency import Answer, once
from app.feedback.messages import check_storable
from app.feedback.schemas import (
    EXAMPLE,
    EXAMPLE_THUMB,
    BatchResult,
    BigId,
    FeedbackItem,
    FeedbackOut,
    FeedbackPage,
    ItemResult,
    Thumb,
    input_schema,
    parse_feedback,
    parse_thumb,
)
from app.feedback.service import feedback_out, get_feedback, ingest, take_back
from app.models import Completion, Rating
from app.web.openapi import BEARER, error_answers
from app.web.shortcut import LeanRoute

__all__ = ["require_json", "router", "send_feedback", "source_of"]

thumbs = APIRouter(prefix="/api/v1", tags=["feedback"], dependencies=[BEARER])
lean = APIRouter(
    prefix="/api/v1",
    tags=["feedback"],
    dependencies=[BEARER, Depends(RequireKeyInBatch("feedback:write", publishable=True))],
    route_class=LeanRoute,
)
OwnId = Annotated[str, Path(min_length=1, max_length=200, description="The feedback's own id.")]
OwnSource = Annotated[
    str, Path(max_length=100, description="The key's own source: its name in lower case, with dashes.")
]

_ADDRESS: list[dict[str, Any]] = [
    {
        "name": "source",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "maxLength": 100},
        "description": "The key's own source: its name in lower case, with dashes.",
    },
    {
        "name": "external_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 200},
        "description": "The feedback's own id.",
    },
]

_EITHER = input_schema(FeedbackItem, Thumb)
_SENT: dict[int | str, dict[str, Any]] = {
    200: {"model": ItemResult, "description": "Was there already, or replaced."},
    201: {"model": ItemResult, "description": "Stored."},
    202: {"model": ItemResult, "description": "Stored, and waits for the output that it names."},
    **error_answers(409, 413, 415, 422, 503),
}


async def _taken(ask: Ask, body: Any) -> Response:
    return (await send(ask, body)).response()


@lean.post(
    "/feedback", status_code=201, summary="Send one thumb", responses=_SENT, openapi_extra=body_of(_EITHER, EXAMPLE)
)
async def send_feedback(request: Request) -> Response:
    """Store a thumb with its output, or on an output that is only named. The same item again changes nothing, so retry freely.

    An output without `label` waits in the annotation queue. A thumb that names an output not seen yet is answered 202 and
    counts as soon as the output comes.
    """
    key = bearer_hash(request)
    body = await json_body(request)
    ask = Ask(request, key, None)
    try:
        ask.item = parse_feedback(body)
    except StudioError as error:
        ask.error = error
    return await _taken(ask, body)


@lean.put(
    "/feedback/{source}/{external_id:path}",  # noqa: FAST003 -- read from the request
    summary="Set one thumb by its own id",
    responses=_SENT,
    openapi_extra=body_of(input_schema(Thumb), EXAMPLE_THUMB, *_ADDRESS),
)
async def put_feedback(request: Request) -> Response:
    """Store or replace the feedback of this id. What the body leaves out stays as it was; `comment: ""` and `reasons: []` empty it.

    The body names the output (`completion_id` or `output_id`) and the rater. 409 where this id is the feedback of another rater
    or on another output, or where this rater's feedback on the output has another id.
    """
    key = bearer_hash(request)
    body = await json_body(request)
    ask = Ask(request, key, None, source=request.path_params["source"], put=True)
    try:
        ask.item = _named(body, request.path_params["external_id"])
    except StudioError as error:
        ask.error = error
    return await _taken(ask, body)


def _named(body: Any, external_id: str) -> Thumb:
    if isinstance(body, dict):
        if body.get("external_id", external_id) != external_id:
            raise InvalidError("The item does not fit.", fields={"external_id": "is not the id in the address"})
        body = {**body, "external_id": external_id}
    return parse_thumb(body)


@thumbs.delete(
    "/feedback/{source}/{external_id:path}",
    status_code=204,
    summary="Take one thumb back",
    responses=error_answers(422),
    openapi_extra={"parameters": [KEY_HEADER]},
)
def delete_feedback(request: Request, db: Db, holder: PageWriter, source: OwnSource, external_id: OwnId) -> Response:
    """Un-click, whether it is stored or waits for its output. The history keeps it. Again, or for an id never seen: 204 as well."""
    own = check_source(holder.key, source)
    try:
        check_storable(external_id, "external_id")
    except ValueError as error:
        raise InvalidError("The id does not fit.", fields={"external_id": str(error)}) from None

    def work() -> Answer:
        take_back(db, holder.project, own, external_id)
        return Answer(204)

    return once(db, holder.project.id, own, request, None, work).response()


@thumbs.post(
    "/feedback/batch",
    summary="Send up to 1,000 thumbs",
    responses={200: {"model": BatchResult}, **error_answers(409, 413, 415, 422)},
    openapi_extra=batch_body("FeedbackBatch", _EITHER, EXAMPLE),
)
def send_batch(request: Request, db: Db, holder: Writer, body: Body) -> Response:
    """Each item is stored or refused by itself; the answer has one result per item, in order."""
    source = source_of(holder.key)

    def work() -> Answer:
        good, bad = split_good(batch_items(body), parse_feedback)
        stored = ingest(db, holder.project, [item for _, item in good], source) if good else []
        return Answer(200, batch_result([place for place, _ in good], stored, bad))

    return once(db, holder.project.id, source, request, body, work).response()


@thumbs.get("/feedback/{feedback_id}", summary="Read one rating", responses=error_answers(404, 422))
def read_feedback(db: Db, holder: Reader, feedback_id: BigId) -> FeedbackOut:
    """A rating as it was stored, with its prompt and completion."""
    return feedback_out(get_feedback(db, holder.project, feedback_id))


@thumbs.get("/feedback", summary="List ratings", responses=error_answers(422))
def list_feedback(
    db: Db,
    holder: Reader,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> FeedbackPage:
    """All ratings of the project, newest first, superseded ones too (`is_current` is false)."""
    query = (
        select(Rating)
        .options(joinedload(Rating.completion).joinedload(Completion.prompt))
        .where(Rating.project_id == holder.project.id)
        .order_by(Rating.id.desc())
        .limit(limit + 1)
    )
    before = int_cursor(cursor)
    if before is not None:
        query = query.where(Rating.id < before)
    page = page_of(db.scalars(query).all(), limit, lambda rating: rating.id)
    return FeedbackPage(items=[feedback_out(rating) for rating in page.rows], next_cursor=page.next_cursor)


router = APIRouter()
for part in (lean, thumbs, api_completions.router, api_logs.router):
    router.include_router(part)
