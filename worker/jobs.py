"""Sees an evaluation job through: claims it, runs its child, checks what was drawn, stores it, keeps the lease meanwhile."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError

from app.core.db import session_scope
from app.core.errors import StudioError
from app.evaluations import job_leases as leases
from app.models import EvalJob
from app.settings import get_settings
from worker.alignment.config import ConfigError
from worker.alignment.errors import TrainingError
from worker.alignment.evaluate_files import read_progress
from worker.job_remote import RemoteArms
from worker.job_results import record_results
from worker.job_spec import job_folder, write_spec
from worker.launchers.local import LocalProcess
from worker.supervisor import shutdown

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2
MAX_BEAT_SECONDS = 2.0


class LostError(Exception):
    """The job was cancelled, or is another worker's by now."""


class StoppedError(Exception):
    """The worker was asked to end."""


class FailedError(Exception):
    """The job cannot go on; the message says why."""


def work(job_id: int) -> None:
    """Claim the job and see it through. Harmless to repeat."""
    if shutdown.is_set():
        return
    with session_scope() as db:
        job = leases.claim(db, job_id)
        if job is None:
            return
        db.expunge(job)
    attempt = Attempt(job)
    try:
        attempt.run()
    except LostError:
        log.info("Evaluation %s is cancelled or another worker's", job_id)
    except StoppedError:
        with session_scope() as db:
            leases.release(db, job_id, job.attempt)
    except (FailedError, StudioError, ConfigError, TrainingError, OSError) as error:
        attempt.fail(in_words(error))
    except Exception as error:
        log.exception("Evaluation %s", job_id)
        attempt.fail(f"The evaluation broke: {type(error).__name__}. The worker's log has the details.")


def in_words(error: Exception) -> str:
    if isinstance(error, StudioError):
        return " ".join(filter(None, [error.message, *error.fields.values(), error.remedy]))
    return str(error)


class Attempt:
    """One try at a job by this worker."""

    def __init__(self, job: EvalJob) -> None:
        self.job = job
        self.folder = job_folder(job)
        self._phase, self._done, self._total = "preparing", 0, 0
        self._beaten = 0.0

    def run(self) -> None:
        self.beat(now=True)
        with session_scope() as db:
            spec = write_spec(db, db.get_one(EvalJob, self.job.id))
        failure = self._draw(spec.arms != () and (spec.suites != () or spec.heldout != ""))
        failed_servers = self._ask_servers()
        self._phase = "checking"
        self.beat(now=True)
        told = self._store()
        if failure or failed_servers:
            raise FailedError(failure or failed_servers)
        told |= self._kept(self._finish_kind)
        with session_scope() as db:
            if not leases.finish(db, self.job.id, self.job.attempt, status="succeeded", result=told):
                raise LostError

    def beat(self, *, now: bool = False) -> None:
        """Keep the lease. Raises LostError where it is gone; a database that is away is asked again later."""
        every = min(MAX_BEAT_SECONDS, get_settings().lease_seconds / 3)
        if not now and time.monotonic() - self._beaten < every:
            return
        self._beaten = time.monotonic()
        try:
            with session_scope() as db:
                kept = leases.beat(
                    db, self.job.id, self.job.attempt, phase=self._phase, done=self._done, total=self._total
                )
        except OperationalError as error:
            log.warning("Evaluation %s could not keep its lease: %s", self.job.id, error)
            return
        if not kept:
            raise LostError

    def fail(self, message: str) -> None:
        with session_scope() as db:
            leases.finish(db, self.job.id, self.job.attempt, status="failed", message=message)

    def _draw(self, has_work: bool) -> str:
        """Run the child to its end. What went wrong, in words; "" when nothing did."""
        if not has_work:
            return ""
        progress, log_file = self.folder / "progress.json", self.folder / "log.txt"
        progress.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "worker.alignment", "evaluate", str(self.folder / "spec.json")]
        process = LocalProcess(argv, log_file=log_file)
        try:
            while (code := process.exit_code()) is None:
                if shutdown.is_set():
                    self._stop(process)
                    raise StoppedError
                self._read(progress)
                self.beat()
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
        self._read(progress)
        return _failure(code, read_progress(progress), log_file)

    def _ask_servers(self) -> str:
        """Have the endpoint arms answered, by a thread that this one watches. As ``_draw``."""
        remote = RemoteArms(self.job)
        if not remote.total:
            return ""
        self._phase, before, drawn = "asking", self._done, self._total
        pool = ThreadPoolExecutor(max_workers=1)
        asked = pool.submit(remote.draw)
        try:
            while not asked.done():
                if shutdown.is_set():
                    raise StoppedError
                self._done, self._total = before + remote.done, drawn + remote.total
                self.beat()
                time.sleep(POLL_SECONDS)
        finally:
            remote.stop.set()
            pool.shutdown(wait=False)  # a request on its way may take its time; what it brings is not written
        asked.result()
        self._done, self._total = before + remote.done, drawn + remote.total
        return remote.failure

    def _stop(self, process: LocalProcess) -> None:
        process.terminate()
        deadline = time.monotonic() + get_settings().stop_grace_seconds
        while process.exit_code() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _read(self, progress: Path) -> None:
        told = read_progress(progress)
        if told is not None:
            self._phase, self._done, self._total = told["phase"], told["done"], told["total"]

    def _store(self) -> dict[str, Any]:
        """Check and store what was drawn; a judge may take its time."""

        def store() -> dict[str, Any]:
            with session_scope() as db:
                job = db.get_one(EvalJob, self.job.id)
                told = record_results(db, job, self._judge(job))
                if keeper.lost:
                    raise LostError  # rolls back: another worker's rows count
            return told

        keeper = Keeper(self)
        return self._kept(store, keeper)

    def _kept(self, work: Callable[[], dict[str, Any]], keeper: Keeper | None = None) -> dict[str, Any]:
        """Do it while a thread keeps the lease. Raises LostError where that was lost."""
        keeper = keeper or Keeper(self)
        keeper.start()
        try:
            told = work()
        finally:
            keeper.stop()
        if keeper.lost:
            raise LostError
        return told

    def _judge(self, job: EvalJob) -> Any:
        if not job.plan.get("judge"):
            return None
        from worker.job_judging import make_judge

        return make_judge(job)

    def _finish_kind(self) -> dict[str, Any]:
        """What a kind does with what was drawn; what it tells for the job's result."""
        if self.job.kind == "full":
            from worker.job_full import finish_full

            return finish_full(self.job.id)
        if self.job.kind == "comparison":
            from worker.comparisons import finish

            finish(self.job.id)
        return {}


class Keeper(threading.Thread):
    """Beats while the job's own thread is busy."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(daemon=True)
        self._attempt = attempt
        self._over = threading.Event()
        self.lost = False

    def run(self) -> None:
        while not self._over.wait(min(MAX_BEAT_SECONDS, get_settings().lease_seconds / 3)):
            try:
                self._attempt.beat(now=True)
            except LostError:
                self.lost = True
                return

    def stop(self) -> None:
        self._over.set()
        self.join()


def _failure(code: int, told: dict[str, Any] | None, log_file: Path) -> str:
    phase = (told or {}).get("phase")
    if code == 0 and phase in {"done", None}:
        return ""
    if code == 0:
        return "The evaluation was stopped from outside. What was drawn is kept."
    if phase == "failed" and told and told["message"]:
        return str(told["message"])
    if code < 0:
        return f"The evaluation process was killed (signal {-code}); it may lack memory. What was drawn is kept."
    lines = log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"The evaluation process ended with code {code}: {lines[-1][:300] if lines else 'no output'}"
