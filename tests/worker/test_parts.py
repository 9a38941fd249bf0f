"""The pieces of the supervisor: the event file, outcomes, the recorder's fence, devices."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.core.db import session_scope
from app.core.redis import get_redis
from app.models import Checkpoint, RunEvent
from app.registry.service import make_version
from app.runs import lifecycle, reaping
from app.runs.service import attempt_folder
from app.settings import get_settings
from worker.alignment.events import Event
from worker.celery_app import app as celery
from worker.devices import cuda_devices, list_devices, parse_nvidia_smi
from worker.event_file import EventFile
from worker.launchers.local import train_argv
from worker.outcomes import outcome_of
from worker.preparation import catch_up
from worker.recorder import LeaseLostError, Recorder


def line(seq: int, kind: str = "metrics", step: int = 1, /, **data: Any) -> str:
    return json.dumps({"seq": seq, "kind": kind, "step": step, "at": "2026-01-02T03:04:05+00:00", "data": data})


def event(seq: int, kind: Any = "metrics", step: int = 1, /, **data: Any) -> Event:
    return Event(seq=seq, kind=kind, step=step, at="2026-01-02T03:04:05+00:00", data=data)


def test_a_line_without_its_end_is_waited_for(tmp_path):
    path = tmp_path / "events.jsonl"
    events = EventFile(path)
    assert events.read() == []
    text = line(1, loss=0.5) + "\n" + line(2, loss=0.4) + "\n"
    path.write_text(text[:-20])
    assert [found.seq for found in events.read()] == [1]
    assert events.read() == []
    with path.open("a") as file:
        file.write(text[-20:])
    assert [found.seq for found in events.read()] == [2]


def test_what_is_no_event_is_skipped_and_what_postgres_refuses_is_mended(tmp_path, caplog):
    path = tmp_path / "events.jsonl"
    path.write_text("not json\n{}\n" + line(1, "notice", text="a\x00b") + "\n" + line(2, loss=float("nan")) + "\n")
    assert [found.data for found in EventFile(path).read()] == [{"text": "a\ufffdb"}, {"loss": None}]
    assert "was skipped" in caplog.text


def test_long_files_come_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("worker.event_file.MAX_BATCH", 3)
    path = tmp_path / "events.jsonl"
    path.write_text("".join(line(number) + "\n" for number in range(1, 8)))
    events = EventFile(path)
    assert [[found.seq for found in events.read()] for _ in range(4)] == [[1, 2, 3], [4, 5, 6], [7], []]


SUCCEEDED, STOPPED = {"status": "succeeded"}, {"status": "stopped"}
FAILED = {"status": "failed", "reason": "data", "message": "No rows."}


@pytest.mark.parametrize(
    ("finished", "code", "stopped_by", "log", "expected"),
    [
        (SUCCEEDED, 0, "", "", ("succeeded", "")),
        (SUCCEEDED, 0, "user", "", ("succeeded", "")),
        (FAILED, 1, "", "", ("failed", "data")),
        (FAILED, 1, "user", "", ("failed", "data")),
        (STOPPED, 0, "user", "", ("cancelled", "")),
        (STOPPED, 0, "worker", "", ("interrupted", "")),
        (STOPPED, 0, "", "", ("interrupted", "")),
        (None, -signal.SIGKILL, "user", "", ("cancelled", "")),
        (None, -signal.SIGTERM, "worker", "", ("interrupted", "")),
        (None, -signal.SIGKILL, "", "", ("failed", "out_of_memory")),
        ({"status": "paused", "message": "m"}, 0, "", "", ("paused", "")),
        ({"status": "paused"}, 0, "worker", "", ("paused", "")),
        ({"status": "paused"}, 0, "user", "", ("cancelled", "")),
        (None, -signal.SIGSEGV, "", "", ("failed", "unknown")),
        (None, 1, "", "RuntimeError: CUDA out of memory", ("failed", "out_of_memory")),
        (None, 1, "", "", ("failed", "unknown")),
        (None, 2, "", "base_model: no tokenizer; choose another", ("failed", "model")),
        (None, 2, "", "lora.r: the head is out of memory", ("failed", "model")),
        (None, 2, "", "cache_dir: cannot be written; name another", ("failed", "unknown")),
        (None, 2, "user", "max_length: row 7 is too long", ("failed", "data")),
        (None, 2, "", "", ("failed", "unknown")),
        (None, 1, "user", "", ("failed", "unknown")),
    ],
)
def test_outcomes(finished, code, stopped_by, log, expected):
    outcome = outcome_of(finished, code, stopped_by=stopped_by, log=log)
    assert (outcome.status, outcome.reason) == expected


def test_events_are_stored_once_and_a_stale_attempt_stores_none(live, tmp_path):
    run = live.launch()
    lifecycle.claim(live.db, run.id, "gpu-1")
    live.db.commit()
    recorder = Recorder(run.id, 1)
    recorder.record([event(1), event(2, "metrics", 2)], attempt=1, attempt_dir=tmp_path)
    recorder.record([event(2, "metrics", 2), event(3, "metrics", 3)], attempt=1, attempt_dir=tmp_path)
    assert recorder.last_seq(1) == 3
    lifecycle.interrupt(live.db, run.id, 1, reason=lifecycle.LEASE_LOST, message="")
    lifecycle.claim(live.db, run.id, "gpu-2")
    live.db.commit()
    with pytest.raises(LeaseLostError):
        recorder.record([event(4, "metrics", 4)], attempt=1, attempt_dir=tmp_path)
    stored = live.db.scalar(select(func.count()).where(RunEvent.run_id == run.id, RunEvent.seq > 0))
    assert stored == 3


def saved_checkpoint(folder: Path, content: str = "{}") -> dict[str, Any]:
    path = folder / "checkpoints" / "step-000002"
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(content)
    digest = hashlib.sha256(content.encode()).hexdigest()
    relative = str(path.relative_to(folder))
    return {"step": 2, "path": relative, "size_bytes": 2, "manifest_sha256": digest, "is_last": False}


def test_a_checkpoint_whose_manifest_differs_is_not_taken(live):
    run = live.launch()
    lifecycle.claim(live.db, run.id, "gpu-1")
    live.db.commit()
    folder = attempt_folder(run.id, 1)
    data = saved_checkpoint(folder)
    recorder = Recorder(run.id, 1)
    recorder.record(
        [event(1, "checkpoint_saved", 2, **(data | {"manifest_sha256": "0" * 64}))], attempt=1, attempt_dir=folder
    )
    with session_scope() as db:
        assert db.scalar(select(func.count()).select_from(Checkpoint)) == 0
    recorder.record([event(2, "checkpoint_saved", 2, **data)], attempt=1, attempt_dir=folder)
    with session_scope() as db:
        stored = db.scalars(select(Checkpoint)).one()
    assert stored.path == f"runs/{run.id}/attempts/1/checkpoints/step-000002"


def test_a_removal_speaks_for_the_attempts_own_folder(live):
    run = live.launch()
    lifecycle.claim(live.db, run.id, "gpu-1")
    live.db.commit()
    folder, other = attempt_folder(run.id, 1), attempt_folder(run.id, 7)
    data = saved_checkpoint(folder)
    recorder = Recorder(run.id, 1)
    told = {"step": 2, "path": data["path"]}

    def removed_after(*events: Event, attempt_dir: Path = folder) -> bool:
        recorder.record(events, attempt=1, attempt_dir=attempt_dir)
        with session_scope() as db:
            return db.scalars(select(Checkpoint)).one().removed_at is not None

    assert not removed_after(event(1, "checkpoint_saved", 2, **data))
    assert not removed_after(event(2, "checkpoint_removed", 4, **told), attempt_dir=other)
    assert removed_after(event(3, "checkpoint_removed", 4, **told))
    assert not removed_after(event(4, "checkpoint_saved", 2, **data)), "saved again"


@pytest.mark.parametrize("is_version", [False, True])
def test_a_later_attempt_takes_the_place_of_a_checkpoint_that_is_no_version(live, is_version):
    run = live.launch()
    for attempt in (1, 2):
        lifecycle.claim(live.db, run.id, "gpu-1")
        live.db.commit()
        folder = attempt_folder(run.id, attempt)
        saved = event(attempt, "checkpoint_saved", 2, **saved_checkpoint(folder))
        Recorder(run.id, attempt).record([saved], attempt=attempt, attempt_dir=folder)
        if attempt == 1 and is_version:
            only = live.db.scalar(select(Checkpoint.id))
            make_version(live.db, project=live.project, checkpoint_id=only, user=None)
        lifecycle.interrupt(live.db, run.id, attempt, reason=lifecycle.LEASE_LOST, message="")
        live.db.commit()
    with session_scope() as db:
        assert db.scalars(select(Checkpoint)).one().attempt == (1 if is_version else 2)


def test_what_a_dead_supervisor_left_unread_is_caught_up(live):
    run = live.launch()
    lifecycle.claim(live.db, run.id, "gpu-1")
    live.db.commit()
    folder = attempt_folder(run.id, 1)
    data = saved_checkpoint(folder)
    Recorder(run.id, 1).record([event(1)], attempt=1, attempt_dir=folder)
    (folder / "events.jsonl").write_text(
        f"{line(1)}\n{line(2, 'metrics', 2, loss=0.5)}\n{line(3, 'checkpoint_saved', 2, **data)}\n{line(4, 'metrics', 3)[:-9]}"
    )
    lifecycle.interrupt(live.db, run.id, 1, reason=lifecycle.LEASE_LOST, message="")
    lifecycle.claim(live.db, run.id, "gpu-2")
    live.db.commit()
    catch_up(Recorder(run.id, 2))
    stored = live.db.execute(
        select(RunEvent.attempt, RunEvent.seq).where(RunEvent.run_id == run.id, RunEvent.seq > 0).order_by(RunEvent.seq)
    ).all()
    assert [tuple(row) for row in stored] == [(1, 1), (1, 2), (1, 3)]
    assert live.db.scalars(select(Checkpoint.attempt)).all() == [1]


def test_queued_runs_are_rung_again_as_often_as_messages_lack(live):
    live.launch("a")
    live.launch("b")
    live.db.commit()
    assert get_redis().llen("train") == 2
    get_redis().delete("train")
    assert reaping.ring_queued(live.db) == 2
    live.db.commit()
    assert get_redis().llen("train") == 2
    assert reaping.ring_queued(live.db) == 0


def test_devices_are_found_without_torch():
    assert list_devices()[0]["memory_bytes"] > 0
    answer = "NVIDIA H100 80GB HBM3, 81559\nOdd, [N/A]\n\n"
    assert parse_nvidia_smi(answer) == [
        {"name": "NVIDIA H100 80GB HBM3", "kind": "cuda", "memory_bytes": 81559 * 2**20},
        {"name": "Odd", "kind": "cuda", "memory_bytes": 0},
    ]


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, ["A", "B", "C"]), ("", []), ("-1", []), ("2,0", ["C", "A"]), ("1", ["B"]), ("GPU-5f,GPU-7a", ["A", "B"])],
)
def test_a_run_takes_a_process_for_each_device_it_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf 'A, 10\\nB, 10\\nC, 10\\n'\n", encoding="utf-8")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device["name"] for device in cuda_devices()] == names
    monkeypatch.setattr(get_settings(), "trainer_processes", 0)
    tail = ["train", "spec.json", *(["--processes", str(len(names))] if len(names) > 1 else [])]
    assert train_argv(Path("spec.json"))[-len(tail) :] == tail
    monkeypatch.setattr(get_settings(), "trainer_processes", 1)
    assert train_argv(Path("spec.json"))[-2:] == ["train", "spec.json"]


def test_celery_is_set_up_as_the_design_says():
    assert celery.conf.task_acks_late is False
    assert celery.conf.worker_prefetch_multiplier == 1
    assert celery.conf.beat_schedule["reap"]["task"] == "worker.tasks.reap.reap"
    celery.loader.import_default_modules()
    assert {"worker.tasks.align.align", "worker.tasks.reap.reap"} <= set(celery.tasks)
