"""What webhooks may ask for, and the outbox: an event is written in the transaction in which it happened, or not at all.

Events hold ids, labels and times, never texts, comments or names of raters: what leaves the installation by itself says that
something happened; who may read what it was asks the API with a key. So erasing a person has nothing to erase here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis import RedisError
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core.db import after_commit
from app.core.queue import QUEUE_TASKS, celery_client
from app.core.redis import get_redis

log = logging.getLogger(__name__)

TYPES = ("feedback.created", "run.finished", "model.promoted")
TEST = "webhook.test"
"""Sent by hand from the page, to any webhook."""
TASK = "worker.tasks.webhooks.deliver"
BELL = "webhooks:rung"
"""In Redis while a ring waits to be heard: a thousand events ring once."""
_BELL_SECONDS = 10

_WANTED = text("SELECT id FROM webhooks WHERE project_id = :project AND is_enabled AND events ? :type")
_WRITE = text(
    """
    WITH written AS (
        INSERT INTO outbox_events (project_id, type, data)
        SELECT :project, :type, item.value
        FROM jsonb_array_elements(CAST(:items AS jsonb)) WITH ORDINALITY AS item ORDER BY item.ordinality
        RETURNING id
    )
    INSERT INTO webhook_deliveries (webhook_id, event_id)
    SELECT hook.id, written.id FROM written CROSS JOIN unnest(CAST(:hooks AS integer[])) AS hook(id)
    ORDER BY written.id, hook.id
    """
)

Data = Sequence[Mapping[str, Any]]


def emit(db: Session, project_id: int, type_: str, data: Data | Callable[[], Data]) -> None:
    """One event for each of ``data`` and a delivery for every enabled webhook of the project that asks for the type.

    One query where nobody asks; ``data`` may be a function, called only where somebody does. Values must be JSON.
    """
    hooks = list(db.scalars(_WANTED, {"project": project_id, "type": type_}))
    if not hooks:
        return
    items = list(data() if callable(data) else data)
    if not items:
        return
    packed = json.dumps(items, ensure_ascii=False, allow_nan=False)
    db.execute(_WRITE, {"project": project_id, "type": type_, "items": packed, "hooks": hooks})
    ring(db)


def ring(db: Session) -> None:
    """After this transaction a worker looks for deliveries that are due. A ring that gets lost costs seconds."""

    def send() -> None:
        try:
            if get_redis().set(BELL, 1, nx=True, ex=_BELL_SECONDS):
                celery_client().send_task(TASK, queue=QUEUE_TASKS, retry=False)
        except Exception as error:
            log.warning("Redis did not take a ring, the clock will find what is due: %s", error)

    after_commit(db, send)


def heard() -> None:
    """Before looking: what commits from now on rings again."""
    with suppress(RedisError):
        get_redis().delete(BELL)
