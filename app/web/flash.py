"""One message that survives a redirect, in a short-lived cookie; shown as a toast, with Undo where there is one."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from app.settings import get_settings

COOKIE = "kto_flash"
_MAX_TEXT = 300

ResponseT = TypeVar("ResponseT", bound=Response)


@dataclass(frozen=True)
class Flash:
    text: str
    undo_url: str | None = None
    """A path of ours that takes a POST; anything else is dropped when read back."""


def set_flash(response: ResponseT, text: str, undo_url: str | None = None) -> ResponseT:
    """Never for errors: those stay on the page."""
    payload = json.dumps(asdict(Flash(text[:_MAX_TEXT], undo_url))).encode()
    value = base64.urlsafe_b64encode(payload).decode()
    secure = get_settings().secure_cookies
    response.set_cookie(COOKIE, value, max_age=60, httponly=True, samesite="lax", path="/", secure=secure)
    return response


def read_flash(request: Request) -> Flash | None:
    raw = request.cookies.get(COOKIE)
    if not raw:
        return None
    try:
        data = json.loads(base64.urlsafe_b64decode(raw))
        text, undo = str(data["text"])[:_MAX_TEXT], data.get("undo_url")
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError):
        return None
    local = isinstance(undo, str) and undo.startswith("/") and not undo.startswith(("//", "/\\"))
    return Flash(text, undo if local else None)


def clear_flash(response: Response) -> None:
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")
