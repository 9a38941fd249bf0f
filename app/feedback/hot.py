"""Single thumbs, many at a time: what has come in while one transaction ran is stored by the next (docs/adr/0006).

Each web process has a batcher on its event loop. A request hands its item over and waits; it is answered after the commit that
holds its item. Keys are read in the same transaction, so a revoked key is refused at once. A batch that fails is stored item by
item, so that nobody's item is refused for another's sake.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from fastapi import Request
from sqlalchemy import ARRAY, Text, any_, bindparam, select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.orm import Session

from app.accounts.access import KeyHolder, RequireKey
from app.accounts.key_check import STALE_SECONDS, add_headers, bearer_hash, check_key, check_rate, rate_limit, rate_name
from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.errors import ForbiddenError, StudioError, UnavailableError
from app.core.ratelimit import take_each
from app.feedback.api_parts import STATUS, check_source, refusal, source_of
from app.feedback.idempotency import Answer, key_of, once
from app.feedback.schemas import FeedbackItem, ItemResult, Thumb
from app.feedback.service import ingest
from app.models import ApiKey, Project

MAX_BATCH = 200
"""Items of one transaction."""
LINGER_SECONDS = 0.002
"""After a batch of several, so long for as many to gather again."""
MAX_WAITING = 2000
"""Requests of one process that wait; more are answered 503."""

_AWAY = (OperationalError, InterfaceError, NoConnectionError)
Outcome = ItemResult | Exception


class RequireKeyInBatch(RequireKey):
    """The guard of a route that stores by ``send``: here the request must carry a key; its row is read with the write."""

    async def __call__(self, request: Request) -> str:  # type: ignore[override]  # FastAPI looks at this signature
        return bearer_hash(request)


@dataclass(slots=True, eq=False)
class Ask:
    """One request that wants an item stored."""

    request: Request
    key_hash: str
    item: FeedbackItem | Thumb | None
    error: StudioError | None = None
    """Why the item does not fit. Told after the key was found good."""
    source: str | None = None
    """As the address names it."""
    put: bool = False
    answer: asyncio.Future[ItemResult] | None = None
    holder: KeyHolder | None = field(default=None)


class _Batcher:
    """One transaction at a time: two would share one Python, and cost more than they gain."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: deque[Ask] = deque()
        self.task: asyncio.Task[None] | None = None
        self.thread = ThreadPoolExecutor(1, "ingest")

    async def send(self, ask: Ask) -> ItemResult:
        if len(self.waiting) >= MAX_WAITING:
            add_headers(ask.request, {"Retry-After": "1"})
            raise UnavailableError("More feedback comes in than can be stored.", remedy="Send it again in a second.")
        ask.answer = self.loop.create_future()
        self.waiting.append(ask)
        if self.task is None:
            self.task = self.loop.create_task(self._drain())
        return await ask.answer

    async def _drain(self) -> None:
        """Ends when nothing waits: there is no task that outlives the requests."""
        last = 1
        try:
            while self.waiting:
                if len(self.waiting) < last:  # those who were just answered send their next items within a moment
                    await asyncio.sleep(LINGER_SECONDS)
                batch = [self.waiting.popleft() for _ in range(min(MAX_BATCH, len(self.waiting)))]
                try:
                    outcomes = await self.loop.run_in_executor(self.thread, store, batch)
                except BaseException as error:
                    _resolve(batch, [error if isinstance(error, Exception) else _STOPPED] * len(batch))
                    raise
                _resolve(batch, outcomes)
                last = len(batch)
                await asyncio.sleep(0)
        finally:
            self.task = None


_STOPPED = UnavailableError("The server is stopping.", remedy="Send it again.")


def _resolve(batch: list[Ask], outcomes: Sequence[Outcome]) -> None:
    for ask, outcome in zip(batch, outcomes, strict=True):
        if ask.answer is None or ask.answer.done():  # the client went away; what it sent is stored all the same
            continue
        if isinstance(outcome, Exception):
            ask.answer.set_exception(outcome)
        else:
            ask.answer.set_result(outcome)


_batchers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Batcher] = WeakKeyDictionary()


async def send(ask: Ask, body: Any) -> Answer:
    """Stores the item with others of this moment; a request with an idempotency key by itself. Raises StudioError."""
    if key_of(ask.request) is not None:
        return await asyncio.get_running_loop().run_in_executor(None, _alone, ask, body)
    loop = asyncio.get_running_loop()
    batcher = _batchers.get(loop)
    if batcher is None:
        batcher = _batchers[loop] = _Batcher(loop)
    return _answer(await batcher.send(ask))


def _answer(result: ItemResult) -> Answer:
    error = refusal(result)
    if error is not None:
        raise error
    return Answer(STATUS.get(result.status, 200), result)


def _alone(ask: Ask, body: Any) -> Answer:
    with session_scope() as db:
        outcome = _admit(db, [ask], counted=False)[0]
        if outcome is not None:
            raise outcome
        assert ask.holder is not None

        def work() -> Answer:
            result = _run(db, [ask])[0]
            if isinstance(result, Exception):
                raise result
            return _answer(result)

        project, key = ask.holder.project, ask.holder.key
        return once(db, project.id, source_of(key), ask.request, body, work)


def store(batch: list[Ask]) -> list[Outcome]:
    """All in one transaction; where that fails, each in one of its own. An error where an item was not stored."""
    try:
        return _store(batch)
    except _AWAY as error:
        return [error] * len(batch)
    except Exception as error:
        if len(batch) == 1:
            return [error]
    return [_store_one(ask) for ask in batch]


def _store_one(ask: Ask) -> Outcome:
    try:
        return _store([ask], counted=True)[0]
    except Exception as error:
        return error


def _store(batch: list[Ask], *, counted: bool = False) -> list[Outcome]:
    with session_scope() as db:
        errors = _admit(db, batch, counted=counted)
        good = [ask for ask, error in zip(batch, errors, strict=True) if error is None]
        results = dict(zip(map(id, good), _run(db, good), strict=True))
        return [results[id(ask)] if error is None else error for ask, error in zip(batch, errors, strict=True)]


_KEYS = (
    select(ApiKey, Project)
    .join(Project, Project.id == ApiKey.project_id)
    .where(ApiKey.key_hash == any_(bindparam("hashes", type_=ARRAY(Text))))
)


def _admit(db: Session, batch: list[Ask], *, counted: bool) -> list[StudioError | None]:
    """Finds each key's holder. An error for those that may not write, or whose item does not fit."""
    hashes = list({ask.key_hash for ask in batch})
    holders = {key.key_hash: KeyHolder(key, project) for key, project in db.execute(_KEYS, {"hashes": hashes})}
    errors = [_check(ask, holders.get(ask.key_hash)) for ask in batch]
    if not counted:
        _count(batch, errors)
    now = utcnow()
    for holder in {ask.key_hash: ask.holder for ask in batch if ask.holder}.values():
        key = holder.key
        if key.last_used_at is None or (now - key.last_used_at).total_seconds() > STALE_SECONDS:
            key.last_used_at = now
    return [error or _fits(ask) for ask, error in zip(batch, errors, strict=True)]


def _check(ask: Ask, holder: KeyHolder | None) -> StudioError | None:
    try:
        check_key(ask.request, holder.key if holder else None, "feedback:write", publishable=True)
    except StudioError as error:
        return error
    ask.holder = holder
    return None


def _count(batch: list[Ask], errors: list[StudioError | None]) -> None:
    """One word with Redis for each key, however many requests came with it."""
    by_key: dict[str, list[int]] = {}
    for place, ask in enumerate(batch):
        if errors[place] is None:
            by_key.setdefault(ask.key_hash, []).append(place)
    for places in by_key.values():
        holder = batch[places[0]].holder
        assert holder is not None
        allowances = take_each(rate_name(holder.key), rate_limit(holder.key), len(places))
        for place, allowance in zip(places, allowances, strict=True):
            try:
                check_rate(batch[place].request, allowance)
            except StudioError as error:
                errors[place] = error


def _fits(ask: Ask) -> StudioError | None:
    assert ask.holder is not None
    try:
        if ask.source is not None:
            check_source(ask.holder.key, ask.source)
    except StudioError as error:
        return error
    if ask.error is not None:
        return ask.error
    if ask.holder.in_page and (not isinstance(ask.item, Thumb) or ask.item.correction is not None):
        return ForbiddenError(
            "A publishable key can only give and take back thumbs.",
            remedy="Name the output by its completion_id, without prompt, completion and correction.",
        )
    if ask.holder.in_page and isinstance(ask.item, Thumb) and ask.item.output_id is not None:
        return ForbiddenError(  # our numbers follow one another: a page could go through all outputs of the project
            "A publishable key cannot name an output by our number.",
            remedy="Name it by its completion_id, which the app has made.",
            fields={"output_id": "is for secret keys"},
        )
    return None


def _run(db: Session, asks: list[Ask]) -> list[ItemResult | StudioError]:
    """Results in the order of ``asks``; those of one project, source and manner are stored together."""
    groups: dict[tuple[int, str, bool], list[Ask]] = {}
    for ask in asks:
        assert ask.holder is not None
        groups.setdefault((ask.holder.project.id, source_of(ask.holder.key), ask.put), []).append(ask)
    results: dict[int, ItemResult | StudioError] = {}
    for (_, source, put), members in groups.items():
        holder = members[0].holder
        assert holder is not None
        items = [ask.item for ask in members if ask.item is not None]
        try:
            stored: Sequence[ItemResult | StudioError] = ingest(db, holder.project, items, source, put=put)
        except StudioError as error:
            stored = [error] * len(members)
        for ask, result in zip(members, stored, strict=True):
            if isinstance(result, ItemResult):
                result.index = 0
            results[id(ask)] = result
    return [results[id(ask)] for ask in asks]
