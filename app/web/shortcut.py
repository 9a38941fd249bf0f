"""A straight way to one endpoint for the requests that come by the thousand (docs/adr/0006).

Only for what is ordinary in every respect: a program with a key, no cookie, no page, a plain JSON body of known length, one of
our own names as the host. All else takes the long way through middleware and router, and so does every refusal and failure: the
endpoint's error is raised again there, so that there is one place where errors become answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import get_settings
from app.web.csp import SECURITY_HEADERS

Endpoint = Callable[[Request], Awaitable[Response]]
FAILURE = "studio.failure"
"""In the scope: what the endpoint raised."""
_ORDINARY = frozenset(
    {
        b"host", b"authorization", b"content-type", b"content-length", b"user-agent", b"accept", b"accept-encoding",
        b"accept-language", b"connection", b"traceparent", b"tracestate", b"x-request-id",
    }
)  # fmt: skip
_HEADERS = [
    *((name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()),
    (b"cache-control", b"private, no-store"),
]


class LeanRoute(APIRoute):
    """Calls its endpoint with the request alone. Dependencies and parameters are for the document and for the tests that walk
    the routes: the endpoint reads what they stand for, and FastAPI has nothing to work out for each call.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            failure = request.scope.get(FAILURE)
            if failure is not None:
                raise failure
            response: Response = await self.endpoint(request)
            return response

        return handle


class Shortcut:
    """Stands outside all middleware."""

    def __init__(self, app: ASGIApp, path: str, endpoint: Endpoint) -> None:
        self.app, self.path, self.endpoint = app, path, endpoint
        self.hosts = frozenset(name.encode() for name in get_settings().answered_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["path"] != self.path
            or scope["method"] != "POST"
            or not self._is_ordinary(scope)
        ):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        scope.setdefault("state", {})
        try:
            response = await self.endpoint(request)
        except ClientDisconnect:
            return
        except Exception as error:
            scope[FAILURE] = error
            await self.app(scope, receive, send)
            return
        told = scope["state"].get("answer_headers", {})
        headers = [*response.raw_headers, *((k.lower().encode(), v.encode()) for k, v in told.items()), *_HEADERS]
        start: Message = {"type": "http.response.start", "status": response.status_code, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": response.body})

    def _is_ordinary(self, scope: Scope) -> bool:
        host = kind = length = b""
        for name, value in scope["headers"]:
            if name not in _ORDINARY:
                return False
            if name == b"host":
                host = value
            elif name == b"content-type":
                kind = value
            elif name == b"content-length":
                length = value
        name, _, port = host.partition(b":")
        return (
            name in self.hosts
            and (not port or port.isdigit())
            and kind == b"application/json"
            and length.isdigit()
            and int(length) <= get_settings().max_request_bytes
        )
