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
from safetensors.torch import load_file, save_file

from tests.alignment import tiny
from worker.alignment import train
from worker.alignment.__main__ import main
from worker.alignment.checkpoints import latest_valid_checkpoint
from worker.alignment.config import EvaluationSettings, LoraSettings, TrainSpec
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


def here(spec: TrainSpec, monkeypatch: pytest.MonkeyPatch) -> int:
    """The same command in this process, which spares the start of another."""
    path = Path(spec.attempt_dir).with_suffix(".json")
    path.write_text(json.dumps(spec.to_json()), encoding="utf-8")
    monkeypatch.setattr(train, "die_with_parent", lambda: None)
    return main(["train", str(path)])


def newest(spec: TrainSpec) -> Path:
    found = latest_valid_checkpoint(Path(spec.attempt_dir) / "checkpoints")
    assert found is not None
    return found


@pytest.mark.parametrize("objective", ["kto", "dpo"])
def test_sigterm_then_kill_9_then_resume_equals_the_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """With what draws at random (LoRA dropout) and what orders by length: the same losses and adapters, bit for bit."""
    records = [tiny.record(n, label=n % 2 == 0, prompt=tiny.record(n // 2)["prompt"]) for n in range(40)]
    tiny.save_snapshot(tmp_path / "snapshot", records=records)
    settings: dict[str, Any] = {
        "objective": objective,
        "batch_size": 4 if objective == "dpo" else 8,
        "max_steps": 24,
        "bucket_steps": 3,
        "lora": LoraSettings(r=4, alpha=8, dropout=0.1),
        "evaluation": QUIET,
        "keep_best": 0,
    }
    whole = tiny.spec(tmp_path, **settings)
    assert here(whole, monkeypatch) == 0

    stopped = tiny.spec(tmp_path, attempt=2, **settings)
    with child(stopped) as process:
        wait_for(stopped, process, '"metrics"')
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, process.communicate()[1].decode()
    last = tiny.events(Path(stopped.attempt_dir))[-1]
    assert (last["kind"], last["data"]["status"]) == ("run_finished", "stopped")
    assert last["step"] > 0
    attempts = [stopped]

    if objective == "kto":
        killed = tiny.spec(tmp_path, attempt=3, resume_from=newest(stopped), **settings)
        with child(killed) as process:
            wait_for(killed, process, '"checkpoint_saved"')
            process.kill()
            assert process.wait(60) == -signal.SIGKILL
        attempts.append(killed)

    final = tiny.spec(tmp_path, attempt=4, resume_from=newest(attempts[-1]), **settings)
    assert here(final, monkeypatch) == 0
    attempts.append(final)
    one, two = adapter(whole, 24), adapter(final, 24)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert figures(attempts) == figures([whole])
    evaluated = {
        e["step"]
        for spec in attempts
        for e in tiny.events(Path(spec.attempt_dir))
        if e["kind"] == "evaluation_finished"
    }
    assert evaluated == {4, 8, 12, 16, 20, 24}


def figures(attempts: list[TrainSpec]) -> dict[int, dict[str, float]]:
    """Step -> its metrics by the newest attempt, less what depends on the clock and the machine."""
    told = (event for spec in attempts for event in tiny.events(Path(spec.attempt_dir)) if event["kind"] == "metrics")
    left_out = {"tokens_per_second", "memory_bytes"}
    return {e["step"]: {key: value for key, value in e["data"].items() if key not in left_out} for e in told}


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
    """What the checks cannot see: the header of the weights is whole, a tensor is missing."""
    spec = tiny.spec(tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.norm.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    process = start(spec)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    last = tiny.events(Path(spec.attempt_dir))[-1]["data"]
    words = "The base model tiny cannot be loaded: its files lack model.norm.weight."
    assert last == {"status": "failed", "reason": "model", "message": words}
    assert b"Traceback" in errors
    assert errors.decode().strip().splitlines()[-1] == words


def test_a_refusal_is_the_last_line_of_stderr(tmp_path: Path) -> None:
    """The real process, libraries' own words included; the cases are in test_checks.py."""
    tiny.save_snapshot(tmp_path / "snapshot", records=[])
    spec = tiny.spec(tmp_path)
    process = start(spec)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.decode().splitlines() == ["snapshot_dir: the train split has no usable row; freeze a new snapshot"]
    assert not Path(spec.attempt_dir).exists()
    assert not Path(spec.cache_dir).exists()


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
