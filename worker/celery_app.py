"""The Celery application of the workers.

    celery -A worker.celery_app worker -Q train -P threads -c 1 -n train@%h      runs, one at a time
    celery -A worker.celery_app worker -Q tasks -P threads -c 2 -n tasks@%h      exports, imports, reaping
    celery -A worker.celery_app beat                                             the clock

Threads, since a forked worker cannot use CUDA; the trainer is a process of its own anyway. Messages are acknowledged at once:
what must not be lost is a row in PostgreSQL, and the reaper rings again.
"""

from __future__ import annotations

import pkgutil
from typing import Any

from celery import Celery
from celery.schedules import crontab
from celery.signals import after_setup_logger, worker_ready, worker_shutdown, worker_shutting_down

from app.core.logs import set_up_logs
from app.core.queue import QUEUE_TASKS, QUEUE_TRAIN
from app.core.redis import celery_url
from app.settings import get_settings
from worker import tasks
from worker.presence import Presence
from worker.supervisor import stop_all

REAP_SECONDS = 5.0
MONITOR_SECONDS = 300.0
QUEUES_SECONDS = 180.0
PENDING_SECONDS = 60.0
INDEX_SECONDS = 5.0
SWEEP_SECONDS = 1800.0
ERASE_SECONDS = 60.0

app = Celery("kto", broker=celery_url(get_settings().redis_url))
app.conf.update(
    imports=[f"worker.tasks.{module.name}" for module in pkgutil.iter_modules(tasks.__path__)],
    task_default_queue=QUEUE_TASKS,
    task_ignore_result=True,
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    worker_send_task_events=False,
    worker_hijack_root_logger=True,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"socket_connect_timeout": 5, "socket_keepalive": True},
    beat_scheduler="celery.beat:Scheduler",  # in memory: the schedule is code, nothing to keep on disk
    beat_max_loop_interval=REAP_SECONDS,
    beat_schedule={
        "reap": {
            "task": "worker.tasks.reap.reap",
            "schedule": REAP_SECONDS,
            "options": {"queue": QUEUE_TASKS, "expires": 2 * REAP_SECONDS},
        },
        "pending": {
            "task": "worker.tasks.pending.sweep",
            "schedule": PENDING_SECONDS,
            "options": {"queue": QUEUE_TASKS, "expires": PENDING_SECONDS},
        },
        "index": {
            "task": "worker.tasks.search.index",
            "schedule": INDEX_SECONDS,
            "options": {"queue": QUEUE_TASKS, "expires": INDEX_SECONDS},
        },
        "index whole": {
            "task": "worker.tasks.search.index",
            "schedule": SWEEP_SECONDS,
            "args": (True,),
            "options": {"queue": QUEUE_TASKS, "expires": SWEEP_SECONDS},
        },
        "webhooks": {
            "task": "worker.tasks.webhooks.deliver",
            "schedule": REAP_SECONDS,
            "options": {"queue": QUEUE_TASKS, "expires": REAP_SECONDS},
        },
        "webhooks clear": {
            "task": "worker.tasks.webhooks.clear",
            "schedule": 3600.0,
            "options": {"queue": QUEUE_TASKS, "expires": 600.0},
        },
        "imports": {
            "task": "worker.tasks.imports.reap_imports",
            "schedule": REAP_SECONDS,
            "options": {"queue": QUEUE_TASKS, "expires": 2 * REAP_SECONDS},
        },
        "erase": {
            "task": "worker.tasks.privacy.sweep",
            "schedule": ERASE_SECONDS,
            "options": {"queue": QUEUE_TASKS, "expires": ERASE_SECONDS},
        },
        "retain": {
            "task": "worker.tasks.privacy.retain",
            "schedule": crontab(hour="3", minute="10"),
            "options": {"queue": QUEUE_TASKS, "expires": 3600.0},
        },
        "requeue-reference-checks": {
            "task": "worker.tasks.reference.requeue",
            "schedule": 30.0,
            "options": {"queue": QUEUE_TASKS, "expires": 60.0},
        },
        "monitor": {
            "task": "worker.tasks.monitor.monitor",
            "schedule": MONITOR_SECONDS,
            "options": {"queue": QUEUE_TASKS, "expires": MONITOR_SECONDS},
        },
        "queues": {
            "task": "worker.tasks.queues.refresh_queues",
            "schedule": QUEUES_SECONDS,
            "options": {"queue": QUEUE_TASKS, "expires": QUEUES_SECONDS},
        },
    },
    timezone="UTC",
)

_presence: Presence | None = None


def _set_levels(**_: Any) -> None:
    set_up_logs()


def _announce(sender: Any, **_: Any) -> None:
    """Workers of runs are shown in the app and asked for by the preflight; the others are not."""
    global _presence  # noqa: PLW0603 -- one worker per process
    if QUEUE_TRAIN in sender.app.amqp.queues.consume_from:
        _presence = Presence(sender.hostname)
        _presence.start()


def _stop_trainers(**_: Any) -> None:
    """SIGTERM to the worker: its trainer saves and its run goes back to the queue, before the pool is joined."""
    stop_all()


def _withdraw(**_: Any) -> None:
    if _presence is not None:
        _presence.stop()


after_setup_logger.connect(_set_levels, weak=False)
worker_ready.connect(_announce, weak=False)
worker_shutting_down.connect(_stop_trainers, weak=False)
worker_shutdown.connect(_withdraw, weak=False)
