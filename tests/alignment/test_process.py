"""The real child process: exit codes, SIGTERM, kill -9, and how failures are told."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.alignment import tiny
from worker.alignment.checkpoints import latest_valid_checkpoint
from worker.alignment.config import EvaluationSettings, TrainSpec
from worker.alignment.errors import DataError
from worker.alignment.train import classify

ROOT = Path(__file__).resolve().parents[2]
QUIET = EvaluationSettings(interval_steps=4, samples_per_prompt=2, prompts_per_category=1, max_new_tokens=4)


def start(spec: TrainSpec) -> subprocess.Popen[bytes]:
    path = Path(spec.attempt_dir).with_suffix(".json")
    path.write_text(json.dumps(spec.to_json()), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "worker.alignment", "train", str(path)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
    )


@contextmanager
def child(spec: TrainSpec) -> Iterator[subprocess.Popen[bytes]]:
    process = start(spec)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(spec: TrainSpec, process: subprocess.Popen[bytes], text: str) -> None:
    deadline = time.monotonic() + 120
    while not (spec.events_path.exists() and text in spec.events_path.read_text(encoding="utf-8")):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def adapter(spec: TrainSpec, step: int) -> dict[str, Any]:
    loaded: dict[str, Any] = load_file(
        Path(spec.attempt_dir) / "checkpoints" / f"step-{step:06d}" / "adapter_model.safetensors"
    )
    return loaded


def test_sigterm_saves_then_kill_9_then_resume_equals_the_uninterrupted_run(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 24, "num_epochs": 5.0, "evaluation": QUIET}
    whole = tiny.spec(tmp_path, **settings)
    with child(whole) as process:
        assert process.wait(120) == 0, process.communicate()[1].decode()

    stopped = tiny.spec(tmp_path, attempt=2, **settings)
    with child(stopped) as process:
        wait_for(stopped, process, '"metrics"')
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, process.communicate()[1].decode()
    last = tiny.events(Path(stopped.attempt_dir))[-1]
    assert last["kind"] == "run_finished"
    assert last["data"]["status"] == "stopped"
    assert last["step"] > 0
    checkpoint = latest_valid_checkpoint(Path(stopped.attempt_dir) / "checkpoints")
    assert checkpoint is not None

    killed = tiny.spec(tmp_path, attempt=3, resume_from=checkpoint, **settings)
    with child(killed) as process:
        wait_for(killed, process, '"checkpoint_saved"')
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    checkpoint = latest_valid_checkpoint(Path(killed.attempt_dir) / "checkpoints")
    assert checkpoint is not None

    final = tiny.spec(tmp_path, attempt=4, resume_from=checkpoint, **settings)
    with child(final) as process:
        assert process.wait(120) == 0, process.communicate()[1].decode()
    one, two = adapter(whole, 24), adapter(final, 24)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert tiny.events(Path(final.attempt_dir))[-1]["data"]["status"] == "succeeded"
    evaluated = {
        e["step"]
        for n in (2, 3, 4)
        for e in tiny.events(tmp_path / f"attempt-{n}")
        if e["kind"] == "evaluation_finished"
    }
    assert evaluated == {4, 8, 12, 16, 20, 24}


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    spec = tiny.spec(tmp_path, max_steps=100_000, num_epochs=1.0)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.to_json()), encoding="utf-8")
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-m', 'worker.alignment', 'train', {str(path)!r}]); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_for(spec, parent, '"loading"')
        parent.kill()
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_failure_is_one_sentence_in_events_and_a_traceback_on_stderr(tmp_path: Path) -> None:
    tiny.save_snapshot(tmp_path / "snapshot", records=[])
    spec = tiny.spec(tmp_path)
    process = start(spec)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    last = tiny.events(Path(spec.attempt_dir))[-1]
    assert last["data"] == {"status": "failed", "reason": "data", "message": "The train split has no usable row."}
    assert b"Traceback" in errors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"surprise": 1}, "surprise: is not a setting"),
        ({"config": {"base_model": "x", "beta": -1}}, "beta: must be above 0"),
        ({"config": {"base_model": "x", "betta": 1}}, "betta: is not a setting"),
    ],
)
def test_a_wrong_spec_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: str
) -> None:
    from worker.alignment.__main__ import main

    path = tmp_path / "spec.json"
    path.write_text(json.dumps(tiny.spec(tmp_path).to_json() | change), encoding="utf-8")
    capsys.readouterr()
    assert main(["train", str(path)]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "attempt-1").exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (DataError("The train split has no usable row."), "data"),
        (ZeroDivisionError("division by zero"), "unknown"),
    ],
)
def test_failures_are_classified(error: Exception, reason: str) -> None:
    found, message = classify(error)
    assert found == reason
    assert message.endswith((".", "zero"))
    assert "\n" not in message
