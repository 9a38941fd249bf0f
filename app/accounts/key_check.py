"""What an API key may do, apart from how its row is read: shared by routes with a thread and routes on the event loop."""

from __future__ import annotations

from fastapi import Request

from app.core.clock import utcnow
from app.core.errors import ForbiddenError, NotSignedInError, RateLimitedError
from app.core.ratelimit import WINDOW_SECONDS, Allowance
from app.core.security import hash_token
from app.models import ApiKey
from app.settings import get_settings

EXPOSED = "RateLimit, RateLimit-Policy, Retry-After"
STALE_SECONDS = 60
"""``last_used_at`` is written at most so often."""


def bearer_hash(request: Request) -> str:
    """Hash of the key that the request carries. Raises NotSignedInError where it has none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotSignedInError("The request has no API key.", remedy="Send `Authorization: Bearer <key>`.")
    return hash_token(token.strip())


def check_key(request: Request, key: ApiKey | None, scope: str, *, publishable: bool = False) -> ApiKey:
    """The key, where it may be used for this request.

    ``publishable``: the route takes publishable keys too, from the pages that they name; the answer then carries the headers
    that let such a page read it. Raises NotSignedInError or ForbiddenError.
    """
    if key is None or key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= utcnow()):
        raise NotSignedInError("The API key is unknown, revoked or expired.", remedy="Create one under Sources.")
    if key.kind == "publishable":
        _check_page(request, key)
        if not publishable:
            raise ForbiddenError(
                "A publishable key can only send feedback on one output at a time.",
                remedy="Use a secret key, on a server.",
            )
    if scope not in key.scopes:
        raise ForbiddenError(f"The API key lacks the scope {scope}.", remedy="Create a key with it.")
    request.state.rate_key = key.prefix
    return key


def _check_page(request: Request, key: ApiKey) -> None:
    origin = request.headers.get("origin")
    if origin is None:
        raise ForbiddenError(
            "A publishable key works in web pages only: the request has no Origin.", remedy="Use a secret key."
        )
    if origin not in key.origins:
        raise ForbiddenError(
            "This page's origin is not among those of the key.",
            remedy="Add it under Sources: make a key that names it.",
        )
    add_headers(
        request,
        {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSED, "Vary": "Origin"},
    )


def rate_name(key: ApiKey) -> str:
    return key.key_hash[:32]


def rate_limit(key: ApiKey) -> int:
    """Requests a minute."""
    if key.rate_per_minute is not None:
        return key.rate_per_minute
    settings = get_settings()
    return settings.publishable_key_rate if key.kind == "publishable" else settings.secret_key_rate


def check_rate(request: Request, allowance: Allowance | None) -> None:
    """Puts the RateLimit headers on the answer. Raises RateLimitedError where nothing is left; None: not counted."""
    if allowance is None:
        return
    add_headers(request, allowance.headers())
    if not allowance.allowed:
        wait = f"the next is taken in {allowance.reset_seconds} s"
        raise RateLimitedError(
            "Too many requests with this key. Nothing was stored.",
            remedy=f"Wait {allowance.reset_seconds} s, then send it again; or send many items as one batch.",
            fields={"key": f"may send {allowance.limit:,} requests in {WINDOW_SECONDS} s; {wait}"},
        )


def add_headers(request: Request, headers: dict[str, str]) -> None:
    """On the answer to this request, whatever it will be: ``app.web.middleware`` writes them."""
    known: dict[str, str] = getattr(request.state, "answer_headers", {})
    request.state.answer_headers = {**known, **headers}
