"""A small HTTP/1.1 load generator: so many kept connections, each with one request at a time, bodies made beforehand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop


@dataclass(slots=True)
class Told:
    """What one run of the generator saw."""

    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    took_ms: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.took_ms) / self.seconds


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], told: Told) -> None:
        self.requests, self.told = requests, told
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.buffer = b""
        self.need = -1
        self.sent_at = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._next()

    def _next(self) -> None:
        request = next(self.requests, None)
        if request is None:
            self.transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self.buffer, self.need = b"", -1
        self.sent_at = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.need < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            place = head.find(b"content-length:")
            length = int(head[place + 15 :].split(b"\r", 1)[0]) if place >= 0 else 0
            self.need = end + 4 + length
        if len(self.buffer) >= self.need:
            self.told.took_ms.append(1000 * (time.perf_counter() - self.sent_at))
            status = int(self.buffer[9:12])
            self.told.statuses[status] = self.told.statuses.get(status, 0) + 1
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed a connection"))


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def run(port: int, requests: Sequence[bytes], clients: int) -> Told:
    """Sends every request once. Raises ConnectionError where the server gives up."""
    return uvloop.run(_run(port, requests, clients))


async def _run(port: int, requests: Sequence[bytes], clients: int) -> Told:
    told, rest = Told(), iter(requests)
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    made = [await loop.create_connection(lambda: _Connection(rest, told), "127.0.0.1", port) for _ in range(clients)]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    told.seconds = time.perf_counter() - started
    return told
