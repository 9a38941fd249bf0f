"""What every API route says of itself in the OpenAPI document: its key and its errors."""

from __future__ import annotations

from typing import Any

from fastapi import Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel


class ErrorBody(BaseModel):
    code: str
    message: str
    remedy: str | None = None
    fields: dict[str, str] | None = None


class ErrorOut(BaseModel):
    error: ErrorBody


BEARER = Security(HTTPBearer(auto_error=False, description="A project's API key, `kto_…`, from Sources."))
"""Documents the header; ``RequireKey`` reads it."""

_WORDS = {
    401: "No key, or an unknown, revoked or expired one.",
    403: "The key lacks the scope.",
    404: "Not in this project.",
    409: "Two ids disagree, or the idempotency key came with another request; `fields` says which.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    503: "Its files are not there.",
    422: "A value does not fit; `fields` says which.",
    429: "Too many requests with this key; `Retry-After` says how many seconds to wait.",
}


def error_answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For ``responses=``: those that any key can get, and ``statuses``."""
    return {status: {"model": ErrorOut, "description": _WORDS[status]} for status in (401, 403, 429, *statuses)}
