"""The widget: two thumbs for other sites' pages. Its address never changes what it holds, so browsers keep it for good."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache

from fastapi import APIRouter, Depends, Response

from app.accounts.access import Public
from app.core.resources import resource_dir
from app.feedback.api_parts import source_of
from app.models import ApiKey

PATH = "/widget/v1.js"
"""Another content is another version: pages name the hash of this one."""
router = APIRouter(include_in_schema=False, dependencies=[Depends(Public())])
_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


@lru_cache(maxsize=1)
def widget_bytes() -> bytes:
    return (resource_dir("static") / "widget" / "v1.js").read_bytes()


def integrity() -> str:
    return "sha384-" + base64.b64encode(hashlib.sha384(widget_bytes()).digest()).decode()


def snippet(key: ApiKey, address: str) -> str:
    """What a page needs: the script once, and an element beside each answer. ``key`` is a publishable one."""
    return (
        f'<script type="module" src="{address}{PATH}" crossorigin integrity="{integrity()}"\n'
        f'  data-kto-key="{key.public_token}" data-kto-source="{source_of(key)}"></script>\n\n'
        '<div data-kto-completion="msg-5521" data-kto-rater="customer-81"></div>'
    )


@router.get(PATH)
def widget() -> Response:
    return Response(widget_bytes(), media_type="text/javascript; charset=utf-8", headers=_HEADERS)
