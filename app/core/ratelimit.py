"""How often a name may do something: counted in Redis, one atomic call and one round trip a time.

Each window begins with its first request and lasts a minute. Where Redis is away everything is allowed: Postgres is the truth,
and a counter that is lost costs nothing. Headers as in the IETF draft "RateLimit header fields for HTTP", revision 11.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any
from weakref import WeakKeyDictionary

import redis
import redis.asyncio

from app.settings import get_settings

log = logging.getLogger(__name__)

WINDOW_SECONDS = 60
_TIMEOUT_SECONDS = 0.25
_PAUSE_SECONDS = 5.0
"""After a failure Redis is not asked for so long: a hanging one must not cost every request its time-out."""
_PREFIX = "kto:rate:"

_SCRIPT = """
local used = redis.call('INCRBY', KEYS[1], ARGV[2])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  left = tonumber(ARGV[1])
end
return {used, left}
"""
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_away_until = 0.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one request found: how much of its window is left after it."""

    limit: int
    """Requests per window."""
    remaining: int
    reset_seconds: int
    """Until the window ends, rounded up, at least 1."""
    allowed: bool

    def headers(self) -> dict[str, str]:
        found = {
            "RateLimit-Policy": f'"key";q={self.limit};w={WINDOW_SECONDS}',
            "RateLimit": f'"key";r={self.remaining};t={self.reset_seconds}',
        }
        return found if self.allowed else {**found, "Retry-After": str(self.reset_seconds)}


def take(name: str, limit: int) -> Allowance | None:
    """Count one request of ``name``, of which ``limit`` a minute are allowed. None: Redis is away, so go on."""
    return take_each(name, limit, 1)[0]


def take_each(name: str, limit: int, count: int) -> list[Allowance] | list[None]:
    """Count ``count`` requests that came together; what each of them found, as if they had come one after another."""
    if time.monotonic() < _away_until:
        return [None] * count
    client = _client()
    try:
        try:
            answer: Any = client.evalsha(_SHA, 1, _PREFIX + name, WINDOW_SECONDS * 1000, count)
        except redis.exceptions.NoScriptError:
            answer = client.eval(_SCRIPT, 1, _PREFIX + name, WINDOW_SECONDS * 1000, count)
    except (redis.RedisError, OSError) as error:
        _away(error)
        return [None] * count
    used, left_ms = int(answer[0]), answer[1]
    return [_allowance((number, left_ms), limit) for number in range(used - count + 1, used + 1)]


async def take_async(name: str, limit: int) -> Allowance | None:
    """As ``take``, for routes on the event loop."""
    if time.monotonic() < _away_until:
        return None
    client = _async_client()
    try:
        try:
            answer = await client.evalsha(_SHA, 1, _PREFIX + name, str(WINDOW_SECONDS * 1000), "1")
        except redis.exceptions.NoScriptError:
            answer = await client.eval(_SCRIPT, 1, _PREFIX + name, str(WINDOW_SECONDS * 1000), "1")
    except (redis.RedisError, OSError) as error:
        _away(error)
        return None
    return _allowance(answer, limit)


def _allowance(answer: Any, limit: int) -> Allowance:
    global _away_until  # noqa: PLW0603 -- one answer of this process is news for all its requests
    if _away_until:
        _away_until = 0.0
        log.warning("Redis answers again: requests are counted.")
    used, left_ms = int(answer[0]), int(answer[1])
    return Allowance(limit, max(limit - used, 0), max(ceil(left_ms / 1000), 1), used <= limit)


def _away(error: Exception) -> None:
    global _away_until  # noqa: PLW0603
    if not _away_until:
        log.warning("Redis is away, so requests are not counted: %s", error)
    _away_until = time.monotonic() + _PAUSE_SECONDS


def _options() -> dict[str, Any]:
    return {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS}


@lru_cache(maxsize=1)
def _client() -> redis.Redis:
    return redis.Redis.from_url(get_settings().redis_url, **_options())


_async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = WeakKeyDictionary()


def _async_client() -> redis.asyncio.Redis:
    """One per event loop: its connections belong to the loop that opened them."""
    loop = asyncio.get_running_loop()
    client = _async_clients.get(loop)
    if client is None:
        client = _async_clients[loop] = redis.asyncio.Redis.from_url(get_settings().redis_url, **_options())
    return client
