"""The clients: every call puts something into the queue and returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

import httpx

from kto_studio_client._engine import Drop, Engine, Options
from kto_studio_client._items import Item, Messages, feedback_id, from_openai, in_utc, messages_of, new_id, pack
from kto_studio_client._wire import Wire


class _Calls:
    """What both clients have. None of these waits for the network or raises."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        source: str = "app",
        max_age: float = 1.0,
        max_items: int = 500,
        queue_items: int = 10_000,
        queue_bytes: int = 64_000_000,
        timeout: float = 10.0,
        exit_timeout: float = 5.0,
        on_drop: Callable[[Drop], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``key``: a project's API key, ``kto_…``. ``source``: the name of that key as the server writes it, for ``retract``.

        A batch is sent when its first item is ``max_age`` seconds old or ``max_items`` are together. Where the server cannot be
        reached the queue fills up to ``queue_items`` or ``queue_bytes``; ``on_drop`` hears of everything that was not stored,
        ``on_error`` of every failed try; both are called from the client's thread. Raises ValueError for an empty url or key.
        """
        if not url or not key:
            raise ValueError("a client needs the server's address and an API key")
        options = Options(
            max_items=max(1, min(max_items, 1000)),
            max_age=max_age,
            queue_items=queue_items,
            queue_bytes=queue_bytes,
            exit_timeout=exit_timeout,
            on_drop=on_drop,
            on_error=on_error,
        )
        self._engine = Engine(Wire(url, key, source=source, timeout=timeout, transport=transport), options)

    @property
    def sent(self) -> int:
        """Stored by the server, since this process began."""
        return self._engine.sent

    @property
    def dropped(self) -> int:
        """Not stored: refused, no room in the queue, or unsent at the end."""
        return self._engine.dropped

    @property
    def waiting(self) -> int:
        return self._engine.waiting

    def log_completion(
        self,
        *,
        prompt: Messages,
        completion: Messages,
        model: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        finish_reason: str | None = None,
        category: str | None = None,
        conversation_id: str | None = None,
        external_id: str | None = None,
        subject: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """One answer of a model. Returns its id (``external_id``, or one made here), which ``feedback`` names it by."""
        own = external_id or new_id()
        values = {
            "prompt": messages_of(prompt, "user"),
            "completion": messages_of(completion, "assistant"),
            "model": model,
            "sampling": sampling,
            "finish_reason": finish_reason,
            "category": category,
            "conversation_id": conversation_id,
            "external_id": own,
            "subject": subject,
            "metadata": metadata,
        }
        self._put("completion", values)
        return own

    def log_openai(self, request: Any, response: Any, **more: Any) -> str:
        """A chat-completions request and its response, as dictionaries or as the openai package's objects.

        Each choice is an output. Returns the id of the first: the response's, with ``:0``, ``:1``, … where there are several
        choices. ``more``: category, conversation_id, metadata, and subject where it is not the request's user.
        """
        try:
            outputs = from_openai(request, response)
        except Exception as error:
            own = new_id()
            self._engine.drop(Item("completion", own), f"not a chat-completions pair: {error!r}")
            return own
        for output in outputs:
            self._put("completion", {**output, **more})
        return str(outputs[0]["external_id"])

    def feedback(
        self,
        completion_id: str,
        up: bool,
        *,
        rater: str | None = None,
        reasons: Sequence[str] | None = None,
        comment: str | None = None,
        correction: Messages | None = None,
        occurred_at: datetime | None = None,
        external_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """A thumb on an output, also on one that the server has not seen yet. Returns the feedback's id.

        Without ``external_id`` the id follows from output and rater, so that a second thumb replaces the first.
        """
        own = external_id or feedback_id(completion_id, rater)
        values = {
            "completion_id": completion_id,
            "up": up,
            "rater": rater,
            "reasons": reasons,
            "comment": comment,
            "correction": messages_of(correction, "assistant") if correction is not None else None,
            "occurred_at": in_utc(occurred_at),
            "external_id": own,
            "metadata": metadata,
        }
        self._put("feedback", values)
        return own

    def retract(self, completion_id: str = "", *, rater: str | None = None, external_id: str | None = None) -> None:
        """Un-click: takes a rater's thumb on an output back, or the feedback with this id."""
        self._engine.put(Item("retract", external_id or feedback_id(completion_id, rater)))

    def _put(self, kind: str, values: Mapping[str, Any]) -> None:
        try:
            item = pack(kind, values)
        except Exception as error:
            self._engine.drop(Item(kind, repr(dict(values))[:10_000]), f"cannot be written as JSON: {error}")
            return
        self._engine.put(item)


class Client(_Calls):
    """For threads and plain scripts. Safe to share between threads; use one for the whole process."""

    def flush(self, timeout: float = 30.0) -> bool:
        """Whether all that was sent so far is settled within ``timeout`` seconds: stored, or told as dropped."""
        return self._engine.flush(timeout)

    def close(self, timeout: float = 30.0) -> bool:
        """Flush and stop. What is left is told as dropped."""
        return self._engine.close(timeout)

    def __enter__(self) -> Client:  # noqa: PYI034 -- Self is younger than Python 3.9
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Calls):
    """For asyncio. Calls return at once and are not awaited; only ``flush`` and ``close`` are.

    The sending is done by a thread here too: a busy event loop does not hold it up, and the end of a loop loses nothing.
    """

    async def flush(self, timeout: float = 30.0) -> bool:
        """As ``Client.flush``."""
        return await asyncio.get_running_loop().run_in_executor(None, self._engine.flush, timeout)

    async def close(self, timeout: float = 30.0) -> bool:
        """As ``Client.close``."""
        return await asyncio.get_running_loop().run_in_executor(None, self._engine.close, timeout)

    async def __aenter__(self) -> AsyncClient:  # noqa: PYI034 -- as above
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
