"""One HTTP client for OpenAI-compatible servers: chat completions and embeddings, with errors told per request.

An answer that was paid for is not asked for again (``ask``'s cache), each is reported as it arrives, and a server that is
down, slow, rate-limited or talks nonsense costs a bounded time and ends in an ``EndpointError`` of that request alone.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from worker.alignment.evaluation.judging.wire import (
    AgainError,
    EndpointError,
    Kind,
    Request,
    bounded,
    read_chat,
    read_vectors,
    retry_after,
)

__all__ = ["Answer", "Client", "EndpointError", "EndpointSettings", "Kind", "Report", "Request"]

Answer = dict[str, Any]
"""What is cached: {"texts": [...], "finish_reasons": [...]} of a chat, {"vectors": [[...]]} of embeddings."""

MAX_WAIT_SECONDS = 60.0
"""The longest pause between attempts, whatever Retry-After asks for."""
GIVE_UP_AFTER = 5
"""Requests in a row that found the server down or refusing before the others are no longer sent."""
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    url: str
    """Base address, as https://host/v1."""
    model: str
    key: str = field(default="", repr=False)
    timeout_seconds: float = 60.0
    """Of one attempt as a whole, a dripping answer included."""
    concurrency: int = 4
    max_attempts: int = 4
    budget_seconds: float = 3600.0
    """Of all requests of one client together."""


Report = Callable[[str, Answer | EndpointError], None]
"""Called with a request's hash and its answer or error, from one thread at a time."""


class Client:
    """A context manager. ``validate`` is called with the address before every attempt and raises ValueError to forbid it;
    ``transport`` replaces httpx's own (an address policy that pins what a name resolved to, or a test's).
    """

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        transport: httpx.BaseTransport | None = None,
        validate: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.settings = settings
        self._validate = validate
        self._stop = stop or threading.Event()
        self._ends = time.monotonic() + settings.budget_seconds
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._http = httpx.Client(
            transport=transport,
            follow_redirects=False,
            trust_env=False,
            timeout=settings.timeout_seconds,
            limits=httpx.Limits(max_connections=settings.concurrency),
        )

    def __repr__(self) -> str:
        return f"Client({self.settings!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def chat(self, request: Request) -> Answer:
        """Texts of one chat, exactly ``request.n`` of them; raises EndpointError.

        A server that ignores ``n`` is asked again until all are there.
        """
        texts: list[str] = []
        reasons: list[str] = []
        while len(texts) < request.n:
            body = request.body(self.settings.model)
            left = request.n - len(texts)
            if request.n > 1:
                body["n"] = left
            if request.seed is not None:
                body["seed"] = request.seed + len(texts)
            found = self._post("chat/completions", body, read_chat)
            texts += [text for text, _ in found[:left]]
            reasons += [reason for _, reason in found[:left]]
        return {"texts": texts, "finish_reasons": reasons}

    def embed(self, inputs: Sequence[str]) -> list[list[float]]:
        """One vector a text, in order; raises EndpointError."""
        if not inputs:
            return []
        body = Request(inputs=tuple(inputs)).body(self.settings.model)
        vectors: list[list[float]] = self._post("embeddings", body, lambda data: read_vectors(data, len(inputs)))
        return vectors

    def ask(
        self,
        requests: Sequence[Request],
        *,
        cache: Mapping[str, Answer] | None = None,
        report: Report | None = None,
        readable: Callable[[str], bool] | None = None,
    ) -> list[Answer | EndpointError]:
        """All answers in the order of ``requests``, at most ``concurrency`` at once; never raises for a single one.

        What the cache holds is not asked. Equal requests are asked once. ``report`` gets each new answer or error as it
        arrives: store it there and a later call goes on where this one was stopped. An answer whose text is not
        ``readable`` is returned, reported as an error, and asked for anew where the cache holds it.
        """
        keys = [request.key(self.settings.model) for request in requests]
        known = {key: cache[key] for key in keys if key in cache} if cache else {}
        if readable is not None:
            known = {key: answer for key, answer in known.items() if readable(str(answer["texts"][0]))}
        pending = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        found: dict[str, Answer | EndpointError] = {}
        failures: list[EndpointError] = []

        def one(key: str, request: Request) -> None:
            result = self._given_up(failures) or self._try(request)
            with self._lock:
                found[key] = result
                if isinstance(result, EndpointError) and result.of_all:
                    failures.append(result)
                else:
                    failures.clear()
                if report is not None:
                    report(key, _unreadable(result, readable) or result)

        with ThreadPoolExecutor(max_workers=max(1, self.settings.concurrency)) as pool:
            asked = [pool.submit(one, key, request) for key, request in pending.items()]
            try:
                for each in asked:
                    each.result()
            except BaseException:  # ``report`` could not store an answer: no further one is paid for
                pool.shutdown(cancel_futures=True)
                raise
        return [known[key] if key in known else found[key] for key in keys]

    def _given_up(self, failures: list[EndpointError]) -> EndpointError | None:
        with self._lock:
            if len(failures) < GIVE_UP_AFTER:
                return None
            last = failures[GIVE_UP_AFTER - 1]
            message = f"Not asked: {GIVE_UP_AFTER} requests in a row failed. {last.message}"
            return EndpointError(last.kind, message, of_all=True)

    def _try(self, request: Request) -> Answer | EndpointError:
        try:
            return {"vectors": self.embed(request.inputs)} if request.inputs else self.chat(request)
        except EndpointError as error:
            return error

    def _post(self, path: str, body: dict[str, Any], read: Callable[[Any], Any]) -> Any:
        last = EndpointError("down", "The server was not asked.")
        for attempt in range(max(1, self.settings.max_attempts)):
            self._wait(last if attempt else None)
            try:
                return read(self._attempt(path, body))
            except AgainError as again:
                last = again.error
                self._pause(attempt, again.after)
        raise last

    def _wait(self, last: EndpointError | None) -> None:
        """Until the shared pause is over; raises when the budget ends before it."""
        while (delay := self._not_before - time.monotonic()) > 0:
            if time.monotonic() + delay >= self._ends or self._stop.wait(min(delay, 1.0)):
                break
        if self._stop.is_set():
            raise EndpointError("timeout", "Stopped before it was asked.")
        if time.monotonic() >= self._ends or self._not_before >= self._ends:
            reason = f" The last attempt: {last.message}" if last else ""
            kind: Kind = last.kind if last else "timeout"
            raise EndpointError(
                kind, f"The time for all requests ({self.settings.budget_seconds:g} s) is spent.{reason}"
            )

    def _pause(self, attempt: int, after: float | None) -> None:
        """One that is told to wait holds all back: the limit is the server's, not the request's."""
        delay = min(MAX_WAIT_SECONDS, 0.25 * 2**attempt) * random.uniform(0.5, 1.0)
        if after is not None:
            delay = min(MAX_WAIT_SECONDS, max(delay, after + random.uniform(0, 0.1)))
        self._not_before = max(self._not_before, time.monotonic() + delay)

    def _attempt(self, path: str, body: dict[str, Any]) -> Any:
        url = f"{self.settings.url.rstrip('/')}/{path}"
        headers = {"authorization": f"Bearer {self.settings.key}"} if self.settings.key else {}
        content = json.dumps(body).encode()
        seconds = min(self.settings.timeout_seconds, max(0.05, self._ends - time.monotonic()))
        try:
            if self._validate is not None:
                self._validate(url)
            with self._http.stream(
                "POST", url, content=content, headers=headers | {"content-type": "application/json"}, timeout=seconds
            ) as response:
                return self._read(response, time.monotonic() + seconds)
        except httpx.TimeoutException:
            raise AgainError("timeout", f"No answer within {seconds:g} s.") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise AgainError("down", f"The server could not be reached ({type(error).__name__}).") from None
        except (httpx.InvalidURL, ValueError) as error:
            raise EndpointError(
                "refused", f"This address may not be asked: {self._hidden(str(error))}", of_all=True
            ) from None

    def _read(self, response: httpx.Response, ends: float) -> Any:
        content = b"".join(bounded(response, ends))
        status = response.status_code
        if status in _AGAIN:
            kind: Kind = "rate_limited" if status == 429 else "http"
            words = "The server limits how often it is asked" if status == 429 else "The server failed"
            raise AgainError(kind, f"{words} (HTTP {status}).{self._told(content)}", retry_after(response))
        if 300 <= status < 400:
            raise EndpointError(
                "refused", f"The server redirects (HTTP {status}); redirects are not followed.", of_all=True
            )
        if status >= 500:
            raise EndpointError("http", f"The server failed (HTTP {status}).{self._told(content)}")
        if status >= 400:
            raise EndpointError(
                "refused",
                f"The server refused the request (HTTP {status}).{self._told(content)}",
                of_all=status in (401, 403, 404),
            )
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise AgainError("nonsense", f"The answer is not JSON.{self._told(content)}") from None

    def _told(self, content: bytes) -> str:
        """The server's own words, shortened."""
        text = content[:4000].decode("utf-8", "replace")
        try:
            data = json.loads(text)
            error = data.get("error", data) if isinstance(data, dict) else data
            text = str(error.get("message", "") if isinstance(error, dict) else error)
        except (ValueError, RecursionError):
            pass
        text = " ".join(self._hidden(text).split())[:200]
        return f" It says: {text}" if text else ""

    def _hidden(self, text: str) -> str:
        return text.replace(self.settings.key, "[key]") if self.settings.key else text


def _unreadable(result: Answer | EndpointError, readable: Callable[[str], bool] | None) -> EndpointError | None:
    if readable is None or isinstance(result, EndpointError) or readable(str(result["texts"][0])):
        return None
    said = " ".join(str(result["texts"][0]).split())[:120]
    return EndpointError("nonsense", f"The answer cannot be read: {said or 'it said nothing'}")
