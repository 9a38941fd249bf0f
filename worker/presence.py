"""A worker's sign of life: a row that a thread of its own renews."""

from __future__ import annotations

import logging
import threading

from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert

from app.core.db import session_scope
from app.models import Worker
from worker.devices import list_devices

log = logging.getLogger(__name__)

PERIOD_SECONDS = 5.0


class Presence:
    def __init__(self, name: str, period_seconds: float = PERIOD_SECONDS) -> None:
        self.name = name
        self._period = period_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._period)

    def _run(self) -> None:
        devices = list_devices()
        while True:
            try:
                self.say(devices)
            except Exception as error:
                log.warning("The sign of life was not stored, the next one may be: %s", error)
            if self._stop.wait(self._period):
                return

    def say(self, devices: list[dict[str, object]]) -> None:
        now = func.clock_timestamp()
        row = insert(Worker).values(name=self.name, devices=devices, started_at=now, heard_at=now)
        renewed = row.on_conflict_do_update(index_elements=["name"], set_={"devices": devices, "heard_at": now})
        with session_scope() as db:
            db.execute(renewed)


def note_run(name: str, run_id: int | None) -> None:
    """Which run the worker is busy with, for the page of workers."""
    with session_scope() as db:
        db.execute(update(Worker).where(Worker.name == name).values(run_id=run_id))
