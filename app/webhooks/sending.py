"""One call of a webhook: bounded in time and size, to judged addresses only, and what it came to in words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from app.core import outbound
from app.core.clock import utcnow
from app.core.errors import InvalidError
from app.core.ids import canonical_json
from app.models import OutboxEvent
from app.webhooks.secrets import message_id, signature

CONNECT_SECONDS, TOTAL_SECONDS = 5.0, 15.0
MAX_ANSWER_BYTES = 64_000
MAX_KEPT_CHARS = 500
GONE = 410


@dataclass(frozen=True, slots=True)
class Answer:
    status: int | None
    text: str
    retry_after: float = 0.0

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_down(self) -> bool:
        """Not this event but the receiver: the next one would fare no better."""
        return self.status is None or self.status >= 500 or self.status == 429


class JudgedTransport(httpx.AsyncHTTPTransport):
    """As ``outbound.PinnedTransport``: connects to the address that was judged, TLS checks the name."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host, _, addresses = await asyncio.to_thread(outbound.resolve, str(request.url.copy_with(query=None)))
        request.headers.setdefault("host", request.url.netloc.decode("ascii"))
        request.extensions = {**request.extensions, "sni_hostname": host}
        request.url = request.url.copy_with(host=addresses[0])
        return await super().handle_async_request(request)


def new_client() -> httpx.AsyncClient:
    timeout = httpx.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS)
    transport = JudgedTransport(trust_env=False, limits=httpx.Limits(max_connections=4))
    return httpx.AsyncClient(transport=transport, timeout=timeout, follow_redirects=False, trust_env=False)


def body_of(event: OutboxEvent) -> bytes:
    """The same bytes for every try."""
    at = event.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return canonical_json({"type": event.type, "timestamp": at, "data": event.data})


async def send(client: httpx.AsyncClient, url: str, signers: list[str], event: OutboxEvent) -> Answer:
    """Never raises: an answer without a status says in words why none came."""
    body, id_, seconds = body_of(event), message_id(event), int(utcnow().timestamp())
    headers = {
        "content-type": "application/json",
        "user-agent": "KTO-Studio-Webhooks/1",
        "accept-encoding": "identity",
        "webhook-id": id_,
        "webhook-timestamp": str(seconds),
        "webhook-signature": signature(signers, id_, seconds, body),
    }
    try:
        async with (
            asyncio.timeout(TOTAL_SECONDS),
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            text = await _start_of(response)
    except InvalidError as error:
        return Answer(None, " ".join([error.message, *error.fields.values()])[:MAX_KEPT_CHARS])
    except (TimeoutError, httpx.TimeoutException):
        return Answer(None, f"No answer within {TOTAL_SECONDS:.0f} seconds.")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return Answer(None, _shown(f"The connection failed: {error or type(error).__name__}"))
    if 300 <= response.status_code < 400:
        text = f"Redirects are not followed: give the address it points to. {text}"
    return Answer(response.status_code, _shown(text), _retry_after(response.headers))


async def _start_of(response: httpx.Response) -> str:
    """At most 64 kB are read, whatever the receiver sends."""
    read = b""
    async for part in response.aiter_raw():
        read += part
        if len(read) >= MAX_ANSWER_BYTES:
            break
    return read[: MAX_KEPT_CHARS * 4].decode("utf-8", "replace")


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:MAX_KEPT_CHARS].strip()


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds, from either form of the header; 0 where there is none."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal() and len(value) < 8:
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
