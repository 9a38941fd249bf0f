"""Redis: Celery's broker, a doorbell and rate limits. Nothing that must last lives here."""

from __future__ import annotations

import logging
from functools import lru_cache

import redis

from app.settings import get_settings

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def get_redis() -> redis.Redis:
    return redis.Redis.from_url(get_settings().redis_url, socket_timeout=5, socket_connect_timeout=2)


def celery_url(url: str) -> str:
    """Celery's spelling of a Redis URL: ``unix:///path?db=0`` is ``redis+socket:///path?virtual_host=0`` there."""
    if not url.startswith("unix://"):
        return url
    path, _, query = url.removeprefix("unix://").partition("?")
    number = dict(pair.split("=", 1) for pair in query.split("&") if "=" in pair).get("db", "0")
    return f"redis+socket://{path}?virtual_host={number}"


def publish(channel: str, message: str = "1") -> None:
    """Ring the doorbell. Losing it costs seconds of latency, never data, so a dead Redis is only logged."""
    try:
        get_redis().publish(channel, message)
    except redis.RedisError as error:
        log.warning("Redis did not take a message for %s: %s", channel, error)
