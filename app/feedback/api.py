"""The JSON API for apps: send thumbs, read back what was stored. A 2xx answer means that it is on disk."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from app.accounts.access import KeyHolder, RequireKey
from app.core.db import Db
from app.core.errors import InvalidError, UnsupportedMediaError
from app.core.pagination import int_cursor, page_of
from app.feedback.schemas import (
    EXAMPLE,
    BatchResult,
    BigId,
    FeedbackItem,
    FeedbackOut,
    FeedbackPage,
    ItemResult,
    parse_item,
)
from app.feedback.service import feedback_out, get_feedback, ingest
from app.models import ApiKey, Completion, Rating
from app.web.openapi import BEARER, error_answers

MAX_BATCH = 1000
_RESERVED = {"annotation", "playground", "import"}


def require_json(request: Request) -> None:
    """Raises UnsupportedMediaError where a body is not declared as JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaError(
            f"The body is {kind or 'of no declared type'}.", remedy="Send JSON with `Content-Type: application/json`."
        )


router = APIRouter(prefix="/api/v1", tags=["feedback"], dependencies=[BEARER])
Writer = Annotated[KeyHolder, Depends(RequireKey("feedback:write"))]
Reader = Annotated[KeyHolder, Depends(RequireKey("feedback:read"))]
IsJson = Depends(require_json)


def source_of(key: ApiKey) -> str:
    """The name under which a key's ratings are stored; a key that replaces another by the same name continues it."""
    slug = re.sub(r"[^a-z0-9]+", "-", key.name.lower()).strip("-")[:80] or "api"
    return f"api-{slug}" if slug in _RESERVED else slug


def _body(*, batch: bool = False) -> dict[str, Any]:
    """The request body for the OpenAPI document: items are checked by ``parse_item``, one by one, not by FastAPI."""
    schema = FeedbackItem.model_json_schema()
    if batch:
        items = {"type": "array", "minItems": 1, "maxItems": MAX_BATCH, "items": schema}
        schema = {"title": "FeedbackBatch", "type": "object", "required": ["items"], "properties": {"items": items}}
    example: dict[str, Any] = {"items": [EXAMPLE]} if batch else EXAMPLE
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/feedback",
    status_code=201,
    summary="Send one thumb",
    response_model=ItemResult,
    dependencies=[IsJson],
    responses={
        200: {"model": ItemResult, "description": "Was there already, or replaced."},
        **error_answers(413, 415, 422),
    },
    openapi_extra=_body(),
)
def send_feedback(db: Db, holder: Writer, response: Response, item: Annotated[Any, Body()]) -> ItemResult:
    """Store one completion with its prompt and the thumb on it. The same item again changes nothing, so retry freely.

    Without `label` the completion waits in the annotation queue.
    """
    result = ingest(db, holder.project, [parse_item(item)], source_of(holder.key))[0]
    if result.status == "error":
        raise InvalidError(result.message or "The item does not fit.", fields=result.fields)
    response.status_code = 201 if result.status == "created" else 200
    return result


@router.post(
    "/feedback/batch",
    summary="Send up to 1,000 thumbs",
    dependencies=[IsJson],
    responses=error_answers(413, 415, 422),
    openapi_extra=_body(batch=True),
)
def send_batch(db: Db, holder: Writer, body: Annotated[Any, Body()]) -> BatchResult:
    """Each item is stored or refused by itself; the answer has one result per item, in order."""
    results: list[ItemResult] = []
    good: list[tuple[int, FeedbackItem]] = []
    for index, raw in enumerate(_batch_items(body)):
        try:
            good.append((index, parse_item(raw)))
        except InvalidError as error:
            results.append(ItemResult(index=index, status="error", message=error.message, fields=error.fields))
    stored = ingest(db, holder.project, [item for _, item in good], source_of(holder.key)) if good else []
    results += [result.model_copy(update={"index": index}) for (index, _), result in zip(good, stored, strict=True)]
    results.sort(key=lambda result: result.index)
    counts = [result.status for result in results]
    return BatchResult(
        created=counts.count("created"),
        updated=counts.count("updated"),
        unchanged=counts.count("unchanged"),
        errors=counts.count("error"),
        items=results,
    )


def _batch_items(body: Any) -> list[Any]:
    items = body.get("items") if isinstance(body, dict) else body
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_BATCH:
        raise InvalidError(
            "The batch does not fit.", fields={"items": f"a list of 1 to {MAX_BATCH:,} items of feedback"}
        )
    return items


@router.get("/feedback/{feedback_id}", summary="Read one rating", responses=error_answers(404, 422))
def read_feedback(db: Db, holder: Reader, feedback_id: BigId) -> FeedbackOut:
    """A rating as it was stored, with its prompt and completion."""
    return feedback_out(get_feedback(db, holder.project, feedback_id))


@router.get("/feedback", summary="List ratings", responses=error_answers(422))
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
