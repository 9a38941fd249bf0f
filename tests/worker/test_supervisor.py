"""One attempt with a process that speaks the trainer's protocol."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError

from app.core.storage import artifact_path
from app.models import Checkpoint, Evaluation, EvaluationAlarm, Run, RunEvent, Suite, SuiteSample, SuiteVersion, Worker
from app.registry.service import make_version
from app.runs import lifecycle, pausing, reaping, service
from tests.runs.conftest import Bench
from tests.worker.conftest import trainers
from worker import supervisor
from worker.alignment.config import EvaluationSettings
from worker.presence import Presence
from worker.recorder import Recorder


def queue(live: Bench, **changes: Any) -> Run:
    run = live.launch(f"key-{time.monotonic_ns()}", **changes)
    live.db.commit()
    return run


def reload(live: Bench, run: Run) -> Run:
    live.db.rollback()
    live.db.refresh(run)
    return run


def supervise_aside(run: Run) -> threading.Thread:
    thread = threading.Thread(target=supervisor.supervise, args=(run.id, "gpu-1"))
    thread.start()
    return thread


def wait_for(live: Bench, run: Run, condition: Any, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition(reload(live, run)):
        assert time.monotonic() < deadline, f"still {run.status} at step {run.step}"
        time.sleep(0.05)


def test_a_run_succeeds_and_everything_is_recorded(live, trainer):
    run = queue(live)
    assert supervisor.supervise(run.id, "gpu-1") == "succeeded"
    run = reload(live, run)
    assert (run.status, run.step, run.total_steps, run.lease_until) == ("succeeded", 6, 6, None)
    assert run.summary["best"]["step"] == 6
    assert run.summary["metrics"]["loss"] == pytest.approx(1 / 6)
    steps = live.db.scalars(select(Checkpoint.step).where(Checkpoint.run_id == run.id).order_by(Checkpoint.step)).all()
    assert list(steps) == [2, 4, 6]
    assert live.db.scalar(select(func.count()).select_from(Evaluation)) == 3
    seqs = live.db.scalars(select(RunEvent.seq).where(RunEvent.run_id == run.id, RunEvent.seq > 0)).all()
    assert sorted(seqs) == list(range(1, len(seqs) + 1))
    assert service.log_tail(run.id, 1) == "a line of the log\n"
    assert supervisor.supervise(run.id, "gpu-1") is None  # a second message finds nothing to do


def test_a_failure_keeps_its_reason(live, trainer):
    trainer("fail")
    run = queue(live)
    supervisor.supervise(run.id, "gpu-1")
    run = reload(live, run)
    assert (run.status, run.failure_reason, run.failure_message) == ("failed", "diverged", "The loss is no number.")


def test_a_death_without_a_word_is_classified_from_the_log(live, trainer):
    trainer("die")
    run = queue(live)
    supervisor.supervise(run.id, "gpu-1")
    run = reload(live, run)
    assert (run.status, run.failure_reason) == ("failed", "out_of_memory")
    assert run.failure_message == "CUDA out of memory while computing"


def test_a_refused_spec_fails_with_its_last_line(live, trainer):
    trainer("refuse")
    run = queue(live)
    supervisor.supervise(run.id, "gpu-1")
    run = reload(live, run)
    assert (run.status, run.failure_reason) == ("failed", "data")
    assert run.failure_message == "snapshot_dir: all training rows are desirable; freeze a new snapshot"


def test_a_removed_checkpoint_keeps_its_row_and_its_evaluation(live, trainer):
    trainer("tidy")
    run = queue(live)
    assert supervisor.supervise(run.id, "gpu-1") == "succeeded"
    live.db.rollback()
    found = live.db.execute(
        select(Checkpoint.step, Checkpoint.removed_at.is_not(None), Evaluation.id.is_not(None))
        .join(Evaluation, Evaluation.checkpoint_id == Checkpoint.id)
        .order_by(Checkpoint.step)
    ).all()
    assert [tuple(row) for row in found] == [(2, True, True), (4, False, True), (6, False, True)]


def test_a_version_to_start_from_becomes_a_folder(live, trainer):
    first = queue(live)
    supervisor.supervise(first.id, "gpu-1")
    live.db.rollback()
    checkpoint = live.db.scalars(select(Checkpoint).where(Checkpoint.step == 6)).one()
    make_version(live.db, project=live.project, checkpoint_id=checkpoint.id, user=None)
    run = queue(live, init_adapter="v1", reference="base")
    assert supervisor.supervise(run.id, "gpu-1") == "succeeded"
    spec = json.loads((service.attempt_folder(run.id, 1) / "spec.json").read_text())
    assert spec["config"]["init_adapter"] == str(artifact_path(checkpoint.path))
    assert reload(live, run).config["init_adapter"] == "v1"
    shutil.rmtree(artifact_path(checkpoint.path))
    late = queue(live, init_adapter="v1", reference="base")
    supervisor.supervise(late.id, "gpu-1")
    late = reload(live, late)
    assert (late.status, late.failure_reason) == ("failed", "model")
    assert late.failure_message == "the files of v1 are gone; choose another version"


def test_stop_saves_a_checkpoint_and_ends_as_cancelled(live, trainer):
    trainer("ok", 0.2)
    run = queue(live, max_steps=500)
    thread = supervise_aside(run)
    wait_for(live, run, lambda run: run.step >= 3)
    lifecycle.request_stop(live.db, run)
    live.db.commit()
    thread.join(20)
    run = reload(live, run)
    assert (run.status, run.failure_reason) == ("cancelled", None)
    last = live.db.scalar(select(func.max(Checkpoint.step)).where(Checkpoint.run_id == run.id))
    assert last == run.step < 500


def test_a_deaf_trainer_is_killed_after_the_grace_period(live, trainer):
    trainer("deaf", 0.2)
    run = queue(live, max_steps=500)
    thread = supervise_aside(run)
    wait_for(live, run, lambda run: run.status == "running")
    lifecycle.request_stop(live.db, run)
    live.db.commit()
    thread.join(20)
    run = reload(live, run)
    assert run.status == "cancelled"
    assert "killed" in str(run.failure_message)


def test_a_trainer_whose_lease_was_lost_is_killed_and_writes_nothing(live, trainer):
    trainer("ok", 0.1)
    run = queue(live, max_steps=500)
    thread = supervise_aside(run)
    wait_for(live, run, lambda run: run.step >= 2)
    live.db.execute(update(Run).where(Run.id == run.id).values(attempt=Run.attempt + 1))
    live.db.commit()
    step = reload(live, run).step
    thread.join(20)
    assert not thread.is_alive()
    run = reload(live, run)
    assert (run.status, run.step) == ("running", step)


def test_a_worker_that_shuts_down_saves_and_hands_the_run_back(live, trainer, monkeypatch):
    trainer("ok", 0.2)
    stop = threading.Event()
    monkeypatch.setattr(supervisor, "shutdown", stop)
    run = queue(live, max_steps=8)
    thread = supervise_aside(run)
    wait_for(live, run, lambda run: run.step >= 3)
    supervisor.stop_all()
    thread.join(20)
    run = reload(live, run)
    assert (run.status, run.attempt, run.worker) == ("queued", 1, None)
    assert supervisor.supervise(run.id, "gpu-1") is None  # takes no run any more
    stop.clear()
    reached = run.step
    assert supervisor.supervise(run.id, "gpu-2") == "succeeded"
    run = reload(live, run)
    first = live.db.scalar(
        select(func.min(RunEvent.step)).where(
            RunEvent.run_id == run.id, RunEvent.attempt == 2, RunEvent.kind == "metrics"
        )
    )
    assert first == reached + 1
    assert (run.attempt, run.step) == (2, 8)


def test_a_model_that_is_gone_fails_in_words(live, trainer):
    run = queue(live)
    run.config = run.config | {"base_model": run.config["base_model"] + "-gone"}
    live.db.commit()
    supervisor.supervise(run.id, "gpu-1")
    run = reload(live, run)
    assert (run.status, run.failure_reason) == ("failed", "model")
    assert "There is no folder" in str(run.failure_message)


def test_the_trainer_gets_no_secrets(live, trainer, settings, monkeypatch, tmp_path):
    script = tmp_path / "env.sh"
    script.write_text(f"#!/bin/sh\nenv > {tmp_path}/env.txt\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(settings, "trainer_command", [str(script)])
    run = queue(live)
    supervisor.supervise(run.id, "gpu-1")
    names = {line.partition("=")[0] for line in (tmp_path / "env.txt").read_text().splitlines()}
    assert "DATABASE_URL" in os.environ
    assert not {"DATABASE_URL", "REDIS_URL", "KTO_SECRET_KEY"} & names
    assert "ended with code 3" in str(reload(live, run).failure_message)


def test_the_sign_of_life_is_one_row_a_worker(live):
    presence = Presence("gpu-1")
    presence.say([{"name": "CPU", "kind": "cpu", "memory_bytes": 1}])
    presence.say([{"name": "CPU", "kind": "cpu", "memory_bytes": 2}])
    row = live.db.scalars(select(Worker)).one()
    assert row.devices[0]["memory_bytes"] == 2


def fail_first(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The database is away for the first ``times`` batches."""
    original, left = Recorder.record, [times]

    def record(self: Recorder, *args: Any, **keywords: Any) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise OperationalError("SELECT 1", {}, ConnectionError("away"))
        original(self, *args, **keywords)

    monkeypatch.setattr(Recorder, "record", record)


def test_a_short_absence_of_the_database_loses_nothing(live, trainer, monkeypatch):
    fail_first(monkeypatch, 5)
    run = queue(live)
    assert supervisor.supervise(run.id, "gpu-1") == "succeeded"
    losses = live.db.scalar(select(func.count()).where(RunEvent.run_id == run.id, RunEvent.kind == "metrics"))
    assert losses == 6


def test_an_absence_longer_than_the_lease_gives_the_run_up(live, trainer, monkeypatch, settings, tmp_path):
    monkeypatch.setattr(settings, "lease_seconds", 1)
    trainer("ok", 0.2)
    fail_first(monkeypatch, 10_000)
    run = queue(live, max_steps=500)
    assert supervisor.supervise(run.id, "gpu-1") is None
    assert trainers(tmp_path) == []
    assert reload(live, run).status == "starting"  # the reaper's, once the lease is over


def test_a_run_paused_by_an_alarm_frees_its_worker_and_goes_on_by_decision(live, trainer):
    trainer("both")
    run, other = queue(live), queue(live)
    assert supervisor.supervise(run.id, "gpu-1") == "paused"
    run = reload(live, run)
    assert (run.status, run.step, run.attempt) == ("paused", 4, 1)
    assert (run.lease_until, run.worker, run.finished_at) == (None, None, None)
    assert run.failure_message == "Paused at step 4: Too many loops."
    assert reaping.reap_lost_leases(live.db) == []
    reaping.requeue_interrupted(live.db)
    assert supervisor.supervise(run.id, "gpu-1") is None  # a stale message does not take it up again
    assert supervisor.supervise(other.id, "gpu-1") == "paused"  # the worker took the next run
    pausing.go_on(live.db, run, live.lead, "Known: the prompts ask for lists.")
    live.db.commit()
    assert supervisor.supervise(run.id, "gpu-2") == "paused"  # at step 6, for an alarm of another kind
    spec = json.loads((service.attempt_folder(run.id, 2) / "spec.json").read_text())
    assert spec["acknowledged_alarms"] == ["loops"]
    assert spec["resume_from"].endswith("attempts/1/checkpoints/step-000004")
    run = reload(live, run)
    assert run.failure_message == "Paused at step 6: Too many empty."
    pausing.go_on(live.db, run, live.lead, "Also known.")
    live.db.commit()
    assert supervisor.supervise(run.id, "gpu-2") == "succeeded"
    alarms = live.db.scalars(select(EvaluationAlarm).where(EvaluationAlarm.run_id == run.id).order_by("step")).all()
    assert [(found.kind, found.resolution, found.reason) for found in alarms] == [
        ("loops", "accepted", "Known: the prompts ask for lists."),
        ("empty", "accepted", "Also known."),
    ]
    assert reload(live, run).acknowledged_alarms == ["empty", "loops"]


def test_the_suite_of_diversity_prompts_becomes_a_file_of_the_attempt(live, trainer):
    suite = Suite(project_id=live.project.id, name="Wide", kind="diversity")
    live.db.add(suite)
    live.db.flush()
    version = SuiteVersion(
        project_id=live.project.id, suite_id=suite.id, content_hash="ab" * 32, header={}, num_samples=2
    )
    live.db.add(version)
    live.db.flush()
    for number, (category, metadata) in enumerate([("tea/green", {"domain": "drinks", "open_ended": False}), ("", {})]):
        asked = [{"role": "user", "content": f"Question {number}?"}]
        data = {"id": f"s{number}", "input": asked, "category": category, "metadata": metadata}
        live.db.add(
            SuiteSample(version_id=version.id, number=number, sample_id=f"s{number}", category=category, data=data)
        )
    evaluation = EvaluationSettings(interval_steps=2, diversity_suite=version.content_hash)
    run = queue(live, evaluation=evaluation)
    assert supervisor.supervise(run.id, "gpu-1") == "succeeded"
    spec = json.loads((service.attempt_folder(run.id, 1) / "spec.json").read_text())
    lines = [json.loads(line) for line in Path(spec["diversity_prompts"]).read_text().splitlines()]
    assert lines == [
        {
            "category": "tea/green",
            "messages": [{"role": "user", "content": "Question 0?"}],
            "domain": "drinks",
            "open_ended": False,
        },
        {"category": "uncategorised", "messages": [{"role": "user", "content": "Question 1?"}]},
    ]
    gone = queue(live, evaluation=EvaluationSettings(diversity_suite="cd" * 32))
    assert supervisor.supervise(gone.id, "gpu-1") == "failed"
    gone = reload(live, gone)
    assert gone.failure_reason == "data"
    assert "there is no diversity suite cdcdcdcdcdcd in this project" in str(gone.failure_message)
