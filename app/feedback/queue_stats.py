"""How far a queue is, and how quickly it goes: counted now and then, kept in Redis between."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

import redis
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.core.redis import get_redis
from app.models import AnnotationQueue, AnnotationSlot, User

log = logging.getLogger(__name__)

FRESH_SECONDS = 30
PACE_SAMPLE = 200
_MOVE = "if redis.call('exists', KEYS[1]) == 1 then redis.call('hincrby', KEYS[1], 'done', ARGV[1]) end"


@dataclass(frozen=True, slots=True)
class Progress:
    done: int
    """Verdicts given, skips included; hidden gold items are no labels and do not count."""
    total: int

    @property
    def left(self) -> int:
        return self.total - self.done


@dataclass(frozen=True, slots=True)
class Pace:
    today: int
    """Own verdicts since midnight UTC."""
    seconds: float | None
    """Median time on screen of the last verdicts; None before there is one."""


def progress(db: Session, queue: AnnotationQueue) -> Progress:
    """Counts, which takes a tenth of a second for a million slots."""
    query = select(func.count(AnnotationSlot.done_at), func.count()).where(
        AnnotationSlot.queue_id == queue.id, AnnotationSlot.gold_id.is_(None)
    )
    done, total = db.execute(query).one()
    return Progress(done, total)


def shown_progress(db: Session, queue: AnnotationQueue) -> Progress:
    """As counted within the last half minute, and moved by what was decided since. Without Redis it is counted each time."""
    try:
        kept = get_redis().hmget(_key(queue), "done", "total")
    except redis.RedisError as error:
        log.warning("Redis did not tell the progress of queue %s: %s", queue.id, error)
        return progress(db, queue)
    done, total = kept
    if done is not None and total is not None:
        return Progress(int(done), int(total))
    counted = progress(db, queue)
    try:
        with get_redis().pipeline() as pipe:
            pipe.hset(_key(queue), mapping={"done": counted.done, "total": counted.total})
            pipe.expire(_key(queue), FRESH_SECONDS)
            pipe.execute()
    except redis.RedisError as error:
        log.warning("Redis did not keep the progress of queue %s: %s", queue.id, error)
    return counted


def move_progress(queue: AnnotationQueue, by: int) -> None:
    """One verdict more or less, where a count is kept."""
    try:
        get_redis().eval(_MOVE, 1, _key(queue), by)
    except redis.RedisError as error:
        log.warning("Redis did not move the progress of queue %s: %s", queue.id, error)


def _key(queue: AnnotationQueue) -> str:
    return f"queue:{queue.id}:{queue.created_at.timestamp()}:progress"


def forget_progress(queue: AnnotationQueue) -> None:
    """After a fill: the next look counts again."""
    try:
        get_redis().delete(_key(queue))
    except redis.RedisError as error:
        log.warning("Redis did not forget the progress of queue %s: %s", queue.id, error)


def own_pace(db: Session, queue: AnnotationQueue, user: User) -> Pace:
    mine = (AnnotationSlot.queue_id == queue.id, AnnotationSlot.done_by == user.id)
    midnight = utcnow().replace(hour=0, minute=0, second=0, microsecond=0)
    today = db.scalar(select(func.count()).where(*mine, AnnotationSlot.done_at >= midnight)) or 0
    last = (
        select(AnnotationSlot.took_ms)
        .where(*mine, AnnotationSlot.took_ms.is_not(None))
        .order_by(AnnotationSlot.done_at.desc())
        .limit(PACE_SAMPLE)
        .subquery()
    )
    return Pace(today, _seconds(db.scalar(select(func.percentile_cont(0.5).within_group(last.c.took_ms)))))


def queue_seconds(db: Session, queue: AnnotationQueue) -> float | None:
    """Median time on screen of the queue's last verdicts by anyone."""
    last = (
        select(AnnotationSlot.took_ms)
        .where(AnnotationSlot.queue_id == queue.id, AnnotationSlot.took_ms.is_not(None))
        .order_by(AnnotationSlot.id.desc())
        .limit(PACE_SAMPLE)
        .subquery()
    )
    return _seconds(db.scalar(select(func.percentile_cont(0.5).within_group(last.c.took_ms))))


def last_verdict(db: Session, queue: AnnotationQueue) -> datetime | None:
    return db.scalar(select(func.max(AnnotationSlot.done_at)).where(AnnotationSlot.queue_id == queue.id))


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1000
