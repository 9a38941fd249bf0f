"""The real worker process on the real queue: killed with SIGKILL, shut down, started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.models import Checkpoint, Run, RunEvent
from app.runs import reaping
from tests.conftest import ROOT
from tests.runs.conftest import Bench
from tests.worker.conftest import FAKE
from tests.worker.test_supervisor import queue, reload, wait_for

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(live: Bench, settings: Any, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def act(seconds: float, mode: str = "ok") -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "KTO_DATA_DIR": str(tmp_path),
            "KTO_LEASE_SECONDS": "2",
            "KTO_STOP_GRACE_SECONDS": "5",
            "KTO_TRAINER_COMMAND": json.dumps([*FAKE, mode, str(seconds)]),
        }
        argv = [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "-Q", "train", "-P", "threads"]
        argv += ["-c", "1", "-n", f"train{len(started)}@test", "--without-gossip", "--without-mingle"]
        with (tmp_path / "worker.log").open("ab") as log:
            process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=log)
        started.append(process)
        return process

    yield act
    for process in started:
        process.kill()
        process.wait()


def trainers(folder: Path) -> list[int]:
    """Processes whose command line names a spec below the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and "spec.json" in line:
            found.append(int(entry.name))
    return found


def test_kill_9_of_the_worker_leaves_no_trainer_and_the_run_resumes(live, start, settings, tmp_path):
    worker = start(seconds=0.15)
    run = queue(live, max_steps=12)
    wait_for(live, run, lambda run: run.step >= 5, seconds=30)
    assert len(trainers(tmp_path)) == 1
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    deadline = time.monotonic() + 3
    while trainers(tmp_path):
        assert time.monotonic() < deadline, "the trainer outlived its worker"
        time.sleep(0.05)
    assert reload(live, run).status == "running"  # nobody has noticed yet

    while reload(live, run).status != "queued":
        reaping.reap_lost_leases(live.db)
        live.db.commit()
        time.sleep(0.2)
    start(seconds=0.02)
    wait_for(live, run, lambda run: run.status == "succeeded", seconds=30)
    assert (run.attempt, run.step) == (2, 12)

    events = live.db.execute(
        select(RunEvent.attempt, RunEvent.kind, RunEvent.step, RunEvent.data)
        .where(RunEvent.run_id == run.id)
        .order_by(RunEvent.id)
    ).all()
    states = [data["status"] for _, kind, _, data in events if kind == "state"]
    assert states == ["queued", "starting", "running", "interrupted", "queued", "starting", "running", "succeeded"]
    saved = [step for attempt, kind, step, _ in events if attempt == 1 and kind == "checkpoint_saved"]
    resumed = [step for attempt, kind, step, _ in events if attempt == 2 and kind == "metrics"]
    assert resumed[0] == max(saved) + 1
    assert resumed == list(range(resumed[0], 13))
    steps = live.db.scalars(select(Checkpoint.step).where(Checkpoint.run_id == run.id).order_by(Checkpoint.step)).all()
    assert list(steps) == [2, 4, 6, 8, 10, 12]


def test_sigterm_to_the_worker_saves_and_queues_the_run_again(live, start, settings, tmp_path):
    worker = start(seconds=0.2)
    run: Run = queue(live, max_steps=500)
    wait_for(live, run, lambda run: run.step >= 2, seconds=30)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=20) == 0
    run = reload(live, run)
    assert (run.status, run.worker) == ("queued", None)
    assert trainers(tmp_path) == []
    newest = live.db.scalar(
        select(Checkpoint.step).where(Checkpoint.run_id == run.id).order_by(Checkpoint.step.desc()).limit(1)
    )
    assert newest == run.step
