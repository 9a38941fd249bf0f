"""The worker with the real trainer on a tiny random Llama: killed with SIGKILL, it ends with the very same figures."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.core.storage import data_dir
from app.models import Checkpoint, Evaluation, Run, RunEvent
from app.registry.service import make_version
from app.runs import lifecycle, reaping, service
from tests.alignment import tiny
from tests.runs import samples
from tests.runs.conftest import Bench
from tests.worker.conftest import trainers
from tests.worker.test_supervisor import reload, supervise_aside, wait_for
from worker import supervisor
from worker.alignment.config import EvaluationSettings

STEPS = 30


@pytest.fixture
def real(live: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    live.model = str(tiny.save_model(data_dir() / "models" / "tiny-llama"))
    records = [tiny.record(number) for number in range(40)]
    live.snapshot = samples.freeze(live.db, live.project, records, records[:8], name="real")
    live.db.commit()
    return live


def launch(real: Bench, key: str, steps: int = STEPS) -> Run:
    config = tiny.config(
        base_model=real.model,
        max_steps=steps,
        evaluation=EvaluationSettings(
            interval_steps=10, samples_per_prompt=2, prompts_per_category=1, max_new_tokens=4
        ),
    )
    run = service.launch(real.db, real.project, None, config=config, snapshot=real.snapshot, launch_key=key)
    real.db.commit()
    return run


def is_left(folder: Path, seconds: float = 3.0) -> bool:
    """Whether a trainer outlives its worker."""
    deadline = time.monotonic() + seconds
    while trainers(folder):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.05)
    return False


def figures(real: Bench, run: Run) -> dict[int, dict[str, Any]]:
    """Step -> its metrics by the newest attempt, less what depends on the clock and the machine."""
    rows = real.db.execute(
        select(RunEvent.step, RunEvent.data)
        .where(RunEvent.run_id == run.id, RunEvent.kind == "metrics")
        .order_by(RunEvent.attempt, RunEvent.seq)
    )
    left_out = {"tokens_per_second", "memory_bytes"}
    return {step: {key: value for key, value in data.items() if key not in left_out} for step, data in rows}


def test_kill_9_of_the_worker_changes_no_figure(real, start, tmp_path):
    whole = launch(real, "whole")
    assert supervisor.supervise(whole.id, "gpu-1") == "succeeded", service.log_tail(whole.id, 1)

    broken = launch(real, "broken")
    worker = start([])
    wait_for(real, broken, lambda run: run.step >= 13, seconds=90)
    worker.kill()
    worker.wait()
    assert not is_left(tmp_path)
    while reload(real, broken).status != "queued":
        assert broken.status == "running"
        reaping.reap_lost_leases(real.db)
        real.db.commit()
        time.sleep(0.2)
    assert supervisor.supervise(broken.id, "gpu-2") == "succeeded", service.log_tail(broken.id, 2)

    first, second = figures(real, whole), figures(real, broken)
    assert list(first) == list(range(1, STEPS + 1))
    assert second == first
    attempts = dict(
        real.db.execute(select(Checkpoint.step, Checkpoint.attempt).where(Checkpoint.run_id == broken.id)).all()
    )
    assert set(attempts) == {10, 20, 30}
    evaluated = real.db.scalars(select(Evaluation.step).where(Evaluation.run_id == broken.id)).all()
    assert sorted(evaluated) == [10, 20, 30]


def test_stop_and_save_keeps_the_last_finished_step(real):
    run = launch(real, "stopped", steps=1000)
    thread = supervise_aside(run)
    wait_for(real, run, lambda run: run.step >= 3, seconds=90)
    lifecycle.request_stop(real.db, run)
    real.db.commit()
    thread.join(60)
    run = reload(real, run)
    assert run.status == "cancelled"
    newest = real.db.scalar(
        select(Checkpoint.step).where(Checkpoint.run_id == run.id).order_by(Checkpoint.step.desc()).limit(1)
    )
    assert newest == run.step


def test_what_the_trainer_refuses_is_the_runs_failure(live):
    run = live.launch()  # its model is a folder without a real tokenizer
    live.db.commit()
    supervisor.supervise(run.id, "gpu-1")
    run = reload(live, run)
    assert (run.status, run.failure_reason) == ("failed", "model"), service.log_tail(run.id, 1)
    assert run.failure_message is not None
    assert run.failure_message.startswith("base_model: ")
    assert "\n" not in run.failure_message
    assert {file.name for file in service.attempt_folder(run.id, 1).iterdir()} == {"spec.json", "log.txt"}


def test_a_version_is_trained_further_on_pairs(real):
    labels = [tiny.record(number) | {"prompt": tiny.record(number // 2)["prompt"]} for number in range(40)]
    for number, record in enumerate(labels):
        record["label"] = number % 2 == 0
    real.snapshot = samples.freeze(real.db, real.project, labels, labels[:8], name="pairs")
    evaluation = EvaluationSettings(interval_steps=2, samples_per_prompt=2, prompts_per_category=1, max_new_tokens=4)
    settings = {"base_model": real.model, "max_steps": 2, "batch_size": 4, "evaluation": evaluation}
    runs: list[Run] = []
    for changes in ({}, {"objective": "dpo", "init_adapter": "v1", "reference": "adapter"}):
        config = tiny.config(**settings, **changes)
        run = service.launch(
            real.db, real.project, None, config=config, snapshot=real.snapshot, launch_key=f"{len(runs)}"
        )
        real.db.commit()
        assert supervisor.supervise(run.id, "gpu-1") == "succeeded", service.log_tail(run.id, 1)
        real.db.rollback()
        checkpoint = real.db.scalars(select(Checkpoint).where(Checkpoint.run_id == run.id)).one()
        make_version(real.db, project=real.project, checkpoint_id=checkpoint.id, user=None)
        real.db.commit()
        runs.append(run)
    found = figures(real, runs[1])
    assert found[1]["rewards/margins"] == pytest.approx(0, abs=1e-6), "the version itself is the reference"
    assert found[2]["rewards/accuracies"] is not None
    assert "kl" not in found[1]
