"""What every request passes: size limit, browser identity for CSRF, security headers."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.accounts.sessions import cookie_name
from app.core.security import csrf_token, hash_token, new_token
from app.settings import get_settings
from app.web.csp import SECURITY_HEADERS

MAX_PATH_CHARS = 2000
"""Also below what int() takes: it refuses a number of 4,300 digits with an error of its own."""

_NO_BROWSER = hash_token("")
"""Of a program that sends no cookie: what it may do is said by its key."""


class BrowserMiddleware:
    """Gives ``request.state.browser_hash`` and ``csrf_token``, and the security headers to the answer.

    A browser is known by its sign-in cookie, before that by a random visitor cookie: a sign-in form is protected as well.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].startswith("/api/") and not any(name == b"cookie" for name, _ in scope["headers"]):
            scope.setdefault("state", {}).update(browser_hash=_NO_BROWSER, csrf_token="")
            await self.app(scope, receive, self._with_headers(scope, send, None))
            return
        request = Request(scope)
        token = request.cookies.get(cookie_name("session")) or request.cookies.get(cookie_name("visitor"))
        fresh = None if token or scope["path"].startswith(("/api/", "/static/", "/widget/")) else new_token()
        browser_hash = hash_token(token or fresh or "")
        request.state.browser_hash = browser_hash
        request.state.csrf_token = csrf_token(browser_hash)
        await self.app(scope, receive, self._with_headers(scope, send, fresh))

    def _with_headers(self, scope: Scope, send: Send, fresh: str | None) -> Send:
        """``fresh``: a visitor's token that the browser does not have yet."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in scope["state"].get("answer_headers", {}).items():
                    headers[name] = value  # of the API key: its rate, and who may read the answer
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "private, no-store")
                if fresh is not None:
                    secure = "; Secure" if get_settings().secure_cookies else ""
                    headers.append(
                        "Set-Cookie", f"{cookie_name('visitor')}={fresh}; Path=/; HttpOnly; SameSite=lax{secure}"
                    )
            await send(message)

        return send_with_headers


class SizeLimitMiddleware:
    """413 before a body is read into memory; uploads of imports have their own limit."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if len(scope["path"]) > MAX_PATH_CHARS:
            refusal = {"error": {"code": "too_long", "message": "No address here is that long."}}
            await JSONResponse(refusal, 414)(scope, receive, send)
            return
        settings = get_settings()
        is_import = scope["path"].endswith("/import")
        limit = settings.max_import_bytes + 2**20 if is_import else settings.max_request_bytes
        words = f"The request is larger than {limit // 2**20} MiB. Send it in smaller parts. Nothing was stored."
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            body: dict[str, Any] = {
                "error": {
                    "code": "too_large",
                    "message": words,
                    "fields": {"body": "is larger than this address takes"},
                }
            }
            await JSONResponse(body, 413)(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                # FastAPI lets an HTTPException through while it parses a body, and turns all else into a 400.
                raise HTTPException(413, words)
            return message

        await self.app(scope, limited, send)
