"""The real worker process on the real queue: killed with SIGKILL, shut down, started again."""

from __future__ import annotations

import signal
import time

from sqlalchemy import select

from app.models import Checkpoint, Run, RunEvent
from app.runs import reaping
from tests.worker.conftest import fake, trainers
from tests.worker.test_supervisor import queue, reload, wait_for


def test_kill_9_of_the_worker_leaves_no_trainer_and_the_run_resumes(live, start, settings, tmp_path):
    worker = start(fake(seconds=0.15))
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
    start(fake(seconds=0.02))
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
    worker = start(fake(seconds=0.2))
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
