"""What goes over the wire to an OpenAI-compatible server, and what comes back, read with suspicion."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx

Kind = Literal["timeout", "rate_limited", "refused", "http", "nonsense", "down"]
MAX_BYTES = 32 * 1024 * 1024


class EndpointError(Exception):
    """Why one request has no answer. ``message`` is one sentence for the page and holds no key."""

    def __init__(self, kind: Kind, message: str, *, of_all: bool = False) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.of_all = of_all
        """The server itself failed, not this request: the next one is likely to fail alike."""


class AgainError(Exception):
    """An attempt that failed in a way which may pass."""

    def __init__(self, kind: Kind, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.error = EndpointError(kind, message, of_all=kind in ("down", "timeout"))
        self.after = after


def bounded(response: httpx.Response, ends: float) -> Iterator[bytes]:
    size = 0
    for part in response.iter_bytes():
        size += len(part)
        if size > MAX_BYTES:
            raise EndpointError("nonsense", f"The answer is longer than {MAX_BYTES // 2**20} MiB.")
        if time.monotonic() > ends:
            raise AgainError("timeout", "The answer did not end in time.")
        yield part


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that Retry-After asks for, given as such or as a date."""
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        return max(0.0, float(value)) if float(value) < float("inf") else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def read_chat(data: Any) -> list[tuple[str, str]]:
    """(text, finish reason) of every choice."""
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list) or not choices:
        raise AgainError("nonsense", "The answer holds no choices.")
    found = []
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        text = message.get("content") if isinstance(message, dict) else None
        if isinstance(text, list):  # content parts
            text = "".join(part.get("text") or "" for part in text if isinstance(part, dict))
        if not isinstance(text, str):
            raise AgainError("nonsense", "A choice holds no text.")
        found.append((text, str(choice.get("finish_reason") or "")))
    return found


def read_vectors(data: Any, count: int) -> list[list[float]]:
    rows = data.get("data") if isinstance(data, dict) else None
    if not isinstance(rows, list) or len(rows) != count:
        raise AgainError("nonsense", f"The answer does not hold {count} vectors.")
    try:
        ordered = sorted(rows, key=lambda row: int(row.get("index", 0)))
        vectors = [[float(value) for value in row["embedding"]] for row in ordered]
    except (TypeError, ValueError, KeyError, AttributeError):
        raise AgainError("nonsense", "A vector is not a list of numbers.") from None
    if (
        len({len(vector) for vector in vectors}) != 1
        or not vectors[0]
        or not all(math.isfinite(value) for vector in vectors for value in vector)
    ):
        raise AgainError("nonsense", "The vectors differ in length, are empty or hold NaN.")
    return vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question; equal ones have equal hashes, so a repeat needs another ``seed`` or ``repeat``."""

    messages: tuple[Mapping[str, str], ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    """Texts to embed; a request with these is no chat."""
    repeat: int = 0
    """Tells askings of the same question apart in the cache; never sent."""

    def body(self, model: str) -> dict[str, Any]:
        if self.inputs:
            return {"model": model, "input": list(self.inputs), "encoding_format": "float"}
        body: dict[str, Any] = {
            "model": model,
            "messages": [dict(message) for message in self.messages],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
        }
        optional = {"seed": self.seed, "n": self.n if self.n > 1 else None, "stop": list(self.stop) or None}
        return body | {name: value for name, value in optional.items() if value is not None}

    def key(self, model: str) -> str:
        """SHA-256 of what is asked of which model, hexadecimal: the cache's key."""
        told = json.dumps([self.body(model), self.n, self.repeat], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
