"""Indexes the words of new completions."""

from __future__ import annotations

import time

from app.core.db import session_scope
from app.feedback.search import BATCH, index_some
from worker.celery_app import app

MAX_SECONDS = 60.0
"""Then the next call goes on: other tasks share the worker."""


@app.task(name="worker.tasks.search.index")  # type: ignore[untyped-decorator]  # celery has no types
def index(whole: bool = False) -> None:
    until = time.monotonic() + MAX_SECONDS
    done = BATCH
    while done == BATCH and time.monotonic() < until:
        with session_scope() as db:
            done = index_some(db, whole=whole)
