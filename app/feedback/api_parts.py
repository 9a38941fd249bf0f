"""What the routes of the writing API share: the media type, documented bodies, batches, and how an item's result is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from pydantic_core import from_json

from app.accounts.access import KeyHolder, RequireKey
from app.accounts.keys import slug_of
from app.core.errors import ConflictError, ForbiddenError, InvalidError, StudioError, UnsupportedMediaError
from app.feedback.idempotency import HEADER, MAX_CHARS
from app.feedback.schemas import BatchResult, ItemResult
from app.models import ApiKey

MAX_BATCH = 1000
RESERVED = {"annotation", "playground", "import", "adjudication", "link"}
"""Sources that are not an app."""

Parsed = TypeVar("Parsed")


def require_json(request: Request) -> None:
    """Raises UnsupportedMediaError where a body is not declared as JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaError(
            f"The body is {kind or 'of no declared type'}.",
            remedy="Send JSON with `Content-Type: application/json`.",
            fields={"content-type": "is not application/json"},
        )


def read_json(body: bytes) -> Any:
    """Raises InvalidError that says where it is none."""
    try:
        return from_json(body)
    except ValueError as error:
        raise InvalidError("Some values do not fit.", fields={"body": f"is no JSON: {error}"}) from None


async def json_body(request: Request) -> Any:
    """A parameter after the key's, so that only those who may write are read."""
    require_json(request)
    return read_json(await request.body())


Body = Annotated[Any, Depends(json_body)]
Writer = Annotated[KeyHolder, Depends(RequireKey("feedback:write"))]
PageWriter = Annotated[KeyHolder, Depends(RequireKey("feedback:write", publishable=True))]
Reader = Annotated[KeyHolder, Depends(RequireKey("feedback:read"))]


def source_of(key: ApiKey) -> str:
    """The name under which a key's ratings are stored; a key that replaces another by the same name continues it."""
    slug = slug_of(key.name)
    return f"api-{slug}" if slug in RESERVED else slug


def check_source(key: ApiKey, named: str) -> str:
    """Raises ForbiddenError where an address names another source than the key's own."""
    own = source_of(key)
    if named != own:
        raise ForbiddenError(
            "This key does not write to that source.",
            remedy=f"Its own source is {own}: /api/v1/feedback/{own}/…",
            fields={"source": f"is {own} for this key"},
        )
    return own


KEY_HEADER: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_CHARS},
    "description": "Any text of yours. The same request again within 24 hours has the same answer and is done once.",
}
"""For the OpenAPI document; ``idempotency.once`` reads the header."""


def body_of(schema: dict[str, Any], example: Any, *parameters: dict[str, Any]) -> dict[str, Any]:
    """A writing route in the OpenAPI document, where items are checked one by one and not by FastAPI."""
    content = {"application/json": {"schema": schema, "example": example}}
    return {"parameters": [*parameters, KEY_HEADER], "requestBody": {"required": True, "content": content}}


def batch_body(title: str, item: dict[str, Any], example: Any) -> dict[str, Any]:
    items = {"type": "array", "minItems": 1, "maxItems": MAX_BATCH, "items": item}
    schema = {"title": title, "type": "object", "required": ["items"], "properties": {"items": items}}
    return body_of(schema, {"items": [example]})


def batch_items(body: Any) -> list[Any]:
    """Raises InvalidError where the body is no batch."""
    items = body.get("items") if isinstance(body, dict) else body
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_BATCH:
        raise InvalidError("The batch does not fit.", fields={"items": f"a list of 1 to {MAX_BATCH:,} items"})
    return items


def split_good(items: list[Any], parse: Callable[[Any], Parsed]) -> tuple[list[tuple[int, Parsed]], list[ItemResult]]:
    """Items that fit with their places, and a result for each that does not."""
    good: list[tuple[int, Parsed]] = []
    bad: list[ItemResult] = []
    for index, raw in enumerate(items):
        try:
            good.append((index, parse(raw)))
        except InvalidError as error:
            bad.append(ItemResult(index=index, status="error", message=error.message, fields=error.fields))
    return good, bad


def batch_result(places: list[int], stored: list[ItemResult], bad: list[ItemResult]) -> BatchResult:
    for index, result in zip(places, stored, strict=True):
        result.index = index
    results = sorted([*stored, *bad], key=lambda result: result.index)
    counts = [result.status for result in results]
    return BatchResult(
        created=counts.count("created"),
        updated=counts.count("updated"),
        unchanged=counts.count("unchanged"),
        pending=counts.count("pending"),
        errors=counts.count("error"),
        items=results,
    )


def refusal(result: ItemResult) -> StudioError | None:
    """The error that a single item is answered with: 409 where two ids disagree, else 422."""
    if result.status != "error":
        return None
    kind = ConflictError if "external_id" in result.fields else InvalidError
    return kind(result.message or "The item does not fit.", fields=result.fields)


STATUS = {"created": 201, "pending": 202}
"""Of a single item; all else is 200."""
