"""Enqueue Celery tasks by name, so that the web process imports no worker code (and no torch)."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from celery import Celery
from sqlalchemy.orm import Session

from app.core.db import after_commit
from app.core.redis import celery_url
from app.settings import get_settings

log = logging.getLogger(__name__)

QUEUE_TRAIN = "train"
QUEUE_TASKS = "tasks"


@lru_cache(maxsize=1)
def celery_client() -> Celery:
    client = Celery("kto", broker=celery_url(get_settings().redis_url))
    client.conf.broker_transport_options = {"max_retries": 1, "socket_connect_timeout": 2, "socket_timeout": 5}
    client.conf.task_ignore_result = True
    return client


def enqueue(session: Session, task: str, *args: Any, queue: str = QUEUE_TASKS) -> None:
    """Send ``task`` once the session has committed. A lost message is found again by the reaper, from Postgres."""

    def send() -> None:
        try:
            celery_client().send_task(task, args=args, queue=queue, retry=False)
        except Exception as error:
            log.warning("The queue did not take %s%s, the reaper will ring again: %s", task, args, error)

    after_commit(session, send)
