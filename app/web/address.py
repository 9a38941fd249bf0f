"""Under which address this server is known."""

from __future__ import annotations

from starlette.requests import Request

from app.settings import get_settings


def public_address(request: Request) -> str:
    """Without a slash at the end: KTO_PUBLIC_URL, else what the browser typed; its host was checked by then."""
    return (get_settings().public_url or str(request.base_url)).rstrip("/")
