"""What happens to open queues every few minutes: completions that fit now enter, and the order follows the coverage.

How far a queue has looked stands in Redis; when that is lost it looks again from the beginning, which changes nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import redis
from sqlalchemy import select

from app.core.db import session_scope
from app.core.redis import get_redis
from app.feedback import coverage, queue_fill
from app.feedback.filters import STATES
from app.feedback.queue_stats import forget_progress
from app.models import AnnotationQueue, Project

log = logging.getLogger(__name__)

OVERLAP = 1000
"""Ids looked at once more: a transaction that took a lower id may have committed later."""
LIVING = (*STATES[1:], queue_fill.LOW_COVERAGE)
"""States that a completion enters by ratings, so that also an old one may fit now."""


def refresh_all() -> None:
    """A queue that fails must not keep the others from being filled."""
    with session_scope() as db:
        ids = list(db.scalars(select(AnnotationQueue.id).where(AnnotationQueue.is_open).order_by(AnnotationQueue.id)))
    for queue_id in ids:
        try:
            refresh(queue_id)
        except Exception:
            log.exception("Queue %s could not be refreshed", queue_id)


def refresh(queue_id: int) -> None:
    """Fills one queue and orders it anew, in transactions of at most some thousand rows."""
    fill(queue_id)
    with session_scope() as db:
        queue = db.get(AnnotationQueue, queue_id)
        if queue is None or not queue.is_open:
            return
        changed = coverage.new_order(db, db.get_one(Project, queue.project_id), queue)
    for chunk in _chunks(changed):
        with session_scope() as db:
            coverage.write_order(db, chunk)
    with session_scope() as db:
        forget_progress(db.get_one(AnnotationQueue, queue_id))


def fill(queue_id: int) -> int:
    """New completions that fit the queue's filter enter it; returns how many slots were made.

    The default queue without a filter is filled as completions arrive, with those that have no rating.
    """
    with session_scope() as db:
        queue = db.get(AnnotationQueue, queue_id)
        if queue is None or not queue.is_open or (queue.slug == queue_fill.DEFAULT_QUEUE and not queue.filter):
            return 0
        project = db.get_one(Project, queue.project_id)
        newest, rating = queue_fill.newest_completion(db, project), queue_fill.newest_rating(db, project)
        living = queue.filter.get("state") in LIVING or bool(queue.filter.get("source"))
        key = f"queue:{queue_id}:seen:{sorted(queue.filter.items())}:{queue.overlap}"
        seen, rated = _seen(key)
    if living and rating == rated and newest == seen:
        return 0
    after = 0 if living else max(seen - OVERLAP, 0)
    made = 0
    while True:
        with session_scope() as db:
            queue = db.get_one(AnnotationQueue, queue_id)
            ids = queue_fill.takes(db, db.get_one(Project, queue.project_id), queue, after, newest)
            if not ids:
                break
            made += queue_fill.enter(db, queue, ids)
            after = ids[-1]
    _keep(key, newest, rating)
    return made


def _seen(key: str) -> tuple[int, int]:
    try:
        kept = get_redis().get(key)
    except redis.RedisError:
        return 0, 0
    if kept is None:
        return 0, 0
    completion, rating = kept.split()
    return int(completion), int(rating)


def _keep(key: str, completion: int, rating: int) -> None:
    try:
        get_redis().set(key, f"{completion} {rating}", ex=30 * 24 * 3600)
    except redis.RedisError as error:
        log.warning("Redis did not keep how far a queue has looked: %s", error)


def _chunks(changed: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(changed), coverage.CHUNK):
        yield changed[first : first + coverage.CHUNK]
