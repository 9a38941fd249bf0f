"""Supervises one attempt of a run: starts the trainer, follows its events, keeps the lease, stops it when asked.

Runs in the thread of the Celery task that claimed the run; the trainer dies with that thread.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Literal

from sqlalchemy.exc import OperationalError

from app.core.db import session_scope
from app.models import Run, RunStatus
from app.runs import lifecycle, pausing
from app.runs.service import log_tail
from app.settings import get_settings
from worker.alignment.events import Event
from worker.event_file import EventFile
from worker.launchers.local import LocalProcess, train_argv
from worker.outcomes import Outcome, outcome_of
from worker.preparation import PreparationError, Prepared, catch_up, prepare
from worker.presence import note_run
from worker.recorder import LeaseLostError, Recorder

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
MAX_HEARTBEAT_SECONDS = 2.0
shutdown = threading.Event()
"""Set when this worker was asked to end: its trainers save, their runs go back to the queue, no run is taken."""


def stop_all() -> None:
    shutdown.set()


def supervise(run_id: int, worker: str) -> RunStatus | None:
    """Claim the run and see it through this attempt. None where there was nothing to claim, or the lease was lost."""
    if shutdown.is_set():
        return None
    with session_scope() as db:
        run = lifecycle.claim(db, run_id, worker)
        if run is None:
            return None
        _ = run.snapshot  # loaded here, read after the session is closed
    note_run(worker, run_id)
    try:
        return Attempt(run).run()
    except LeaseLostError as error:
        log.warning("The attempt was given up: %s", error)
        return None
    finally:
        note_run(worker, None)


class Attempt:
    """Owns the process of one attempt from its start until it is seen dead."""

    def __init__(self, run: Run) -> None:
        self.run_row = run
        self.recorder = Recorder(run.id, run.attempt)
        self.finished: dict[str, Any] | None = None
        self.stopped_by: Literal["", "user", "worker"] = ""
        self._kill_at = float("inf")
        self._pending: list[Event] = []
        self._heard_at = time.monotonic()
        self._beat_at = 0.0

    def run(self) -> RunStatus:
        try:
            catch_up(self.recorder)
            prepared = prepare(self.run_row)
        except PreparationError as error:
            return self._end(Outcome(status=RunStatus.FAILED, reason=error.reason, message=str(error)))
        process = LocalProcess(train_argv(prepared.spec_file), log_file=prepared.attempt_dir / "log.txt")
        log.info("%s attempt %s runs as process %s", self.run_row.name, self.run_row.attempt, process.pid)
        try:
            self._follow(process, prepared)
        finally:
            process.kill()  # also what it may have started itself
        tail = log_tail(self.run_row.id, self.run_row.attempt)
        code = process.exit_code()
        assert code is not None, "killed and waited for"
        return self._end(outcome_of(self.finished, code, stopped_by=self.stopped_by, log=tail))

    def _follow(self, process: LocalProcess, prepared: Prepared) -> None:
        events = EventFile(prepared.attempt_dir / "events.jsonl")
        while True:
            over = process.exit_code() is not None  # asked before reading: nothing can follow what is read then
            self._pending = self._pending or events.read()
            if self._store(prepared) and over and not self._pending:
                self._pending = events.read()
                if not self._pending:
                    return
            if not over:
                self._stop_if_asked(process)
                time.sleep(POLL_SECONDS)

    def _store(self, prepared: Prepared) -> bool:
        """Record what is pending and renew the lease. False while the database is away, for as long as the lease lasts."""
        try:
            self.recorder.record(self._pending, attempt=self.run_row.attempt, attempt_dir=prepared.attempt_dir)
            for event in self._pending:
                if event.kind == "run_finished":
                    self.finished = event.data
            self._pending = []
            self._heartbeat()
        except OperationalError as error:
            silent = time.monotonic() - self._heard_at
            log.warning("The database has not answered for %.0f s: %s", silent, error.orig)
            if silent > get_settings().lease_seconds:
                raise LeaseLostError("the database was away for longer than the lease") from error
            time.sleep(POLL_SECONDS)
            return False
        return True

    def _heartbeat(self) -> None:
        now = time.monotonic()
        if now < self._beat_at:
            return
        with session_scope() as db:
            run = lifecycle.heartbeat(db, self.run_row.id, self.run_row.attempt)
        if run is None:
            raise LeaseLostError(f"{self.run_row.name} is no longer attempt {self.run_row.attempt}'s")
        if run.status == RunStatus.STOPPING:
            self.stopped_by = "user"
        self._heard_at = now
        self._beat_at = now + min(get_settings().lease_seconds / 4, MAX_HEARTBEAT_SECONDS)

    def _stop_if_asked(self, process: LocalProcess) -> None:
        """SIGTERM once, SIGKILL of the group after the grace period."""
        if shutdown.is_set() and not self.stopped_by:
            self.stopped_by = "worker"
        if not self.stopped_by:
            return
        if self._kill_at == float("inf"):
            self._kill_at = time.monotonic() + get_settings().stop_grace_seconds
            process.terminate()
        elif time.monotonic() >= self._kill_at:
            process.kill()

    def _end(self, outcome: Outcome) -> RunStatus:
        """Store how the attempt ended; the process is gone. Tries for as long as the lease lasts."""
        run_id, attempt = self.run_row.id, self.run_row.attempt
        deadline = time.monotonic() + get_settings().lease_seconds
        while True:
            try:
                with session_scope() as db:
                    if outcome.status == RunStatus.INTERRUPTED:
                        reason = lifecycle.WORKER_STOPPED
                        lifecycle.interrupt(db, run_id, attempt, reason=reason, message=outcome.message)
                    elif outcome.status == RunStatus.PAUSED:
                        pausing.pause(db, run_id, attempt, outcome.message)
                    else:
                        lifecycle.finish(
                            db, run_id, attempt, outcome.status, reason=outcome.reason, message=outcome.message
                        )
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)
            else:
                return outcome.status
