"""The live side of a run: server-sent events, the same by polling, the curves' figures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Self

import redis.asyncio
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.models import Run
from app.runs import curves, lifecycle, service, stream
from app.settings import get_settings

log = logging.getLogger(__name__)

router = APIRouter(prefix="/p/{slug}/runs/{run_id:int}", include_in_schema=False)
CanView = Annotated[Viewer, Depends(Require("run.view"))]

STREAM_SECONDS = 600.0
"""A stream ends then and the browser opens the next one: rights are checked again."""
POLL_SECONDS = 2.0
"""How long a lost doorbell goes unnoticed."""


def viewed_run(run_id: int, viewer: CanView, db: Db) -> Run:
    return service.get_run(db, viewer.project, run_id)


ViewedRun = Annotated[Run, Depends(viewed_run)]
EventId = Annotated[int, Query(ge=0, le=2**63 - 1)]


def newest_seen(after: int, last_event_id: str | None) -> int:
    """A reconnecting browser sends Last-Event-ID, a page that was just opened sends ``after``."""
    header = int(last_event_id) if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 19 else 0
    return max(after, header)


@router.get("/events", response_class=EventSourceResponse)
async def events(
    request: Request, run: ViewedRun, after: EventId = 0, last_event_id: Annotated[str | None, Header()] = None
) -> AsyncIterator[ServerSentEvent]:
    """Replays what came after the last id, then follows: no database connection is held while waiting."""
    seen = newest_seen(after, last_event_id)
    ends_at = time.monotonic() + STREAM_SECONDS
    async with Doorbell(lifecycle.channel(run.id)) as bell:
        while time.monotonic() < ends_at:
            batch = await run_in_threadpool(stream.read_batch, request, run.project_id, run.id, seen)
            for event_id, message in batch.messages:
                yield ServerSentEvent(event=message.type, data=message.data, id=str(event_id))
            seen = batch.last_id
            if batch.is_over:
                yield ServerSentEvent(event="done", data={})
                return
            if not batch.has_more:
                await bell.wait(POLL_SECONDS)


@router.get("/events.json")
def poll(
    request: Request, run: ViewedRun, after: EventId = 0, last_event_id: Annotated[str | None, Header()] = None
) -> dict[str, Any]:
    """One batch of the stream, for browsers whose connections do not last."""
    batch = stream.read_batch(request, run.project_id, run.id, newest_seen(after, last_event_id))
    sent = [{"id": str(key), "type": message.type, "data": message.data} for key, message in batch.messages]
    return {"events": sent, "done": batch.is_over}


@router.get("/metrics.json")
def metrics(run: ViewedRun, db: Db) -> dict[str, Any]:
    return curves.curves(db, run)


@router.get("/metrics.csv")
def metrics_file(run: ViewedRun, db: Db) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{run.name}-metrics.csv"'}
    text = "".join(curves.metrics_csv(db, run))
    return Response(text, media_type="text/csv; charset=utf-8", headers=headers)


class Doorbell:
    """Waits for a run's channel; without Redis it only waits."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._stack = contextlib.AsyncExitStack()
        self._pubsub: Any = None

    async def __aenter__(self) -> Self:
        client = redis.asyncio.Redis.from_url(get_settings().redis_url, socket_connect_timeout=2)
        self._stack.push_async_callback(client.aclose)
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        self._stack.push_async_callback(pubsub.aclose)
        try:
            await pubsub.subscribe(self._channel)
            self._pubsub = pubsub
        except redis.RedisError as error:
            log.warning("The stream polls, Redis does not answer: %s", error)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def wait(self, seconds: float) -> None:
        """Until the bell rings or the time is over. Rings in quick succession count once."""
        if self._pubsub is None:
            await asyncio.sleep(seconds)
            return
        try:
            rung = await self._pubsub.get_message(timeout=seconds)
            while rung is not None:
                rung = await self._pubsub.get_message(timeout=0)
        except redis.RedisError as error:
            log.warning("The stream polls, Redis went away: %s", error)
            self._pubsub = None
