"""Speaks the trainer's protocol without a model: events, checkpoints with manifests, SIGTERM, exit codes.

python -m tests.worker.fake_trainer MODE SECONDS_PER_STEP train spec.json
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from worker.alignment.checkpoints import Manifest, checkpoint_path, validate_checkpoint
from worker.alignment.config import TrainSpec
from worker.alignment.events import (
    Alarm,
    CheckpointRemoved,
    CheckpointSaved,
    Estimate,
    EvaluationResult,
    HeldoutResult,
    RunFinished,
    RunStarted,
)
from worker.alignment.reporters import JsonlReporter

NUM_PARAMETERS = 48


def main() -> int:
    mode, seconds, _, spec_file = sys.argv[1:5]
    spec = TrainSpec.from_json(json.loads(Path(spec_file).read_text()))
    if mode == "refuse":
        print("a warning of a library", flush=True)
        print("snapshot_dir: all training rows are desirable; freeze a new snapshot", file=sys.stderr)
        return 2
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: None if mode == "deaf" else asked.append(number))
    report = JsonlReporter(spec.events_path)
    start = validate_checkpoint(Path(spec.resume_from)).step if spec.resume_from else 0
    total = spec.config.max_steps
    report.emit("run_started", start, started(total, start))
    print("a line of the log", flush=True)
    for step in range(start + 1, total + 1):
        time.sleep(float(seconds))
        report.emit("metrics", step, {"loss": 1.0 / step, "rewards/margins": 0.1 * step, "kl/raw": 0.01 * step})
        if mode == "fail" and step == 2:
            failed = RunFinished(status="failed", reason="diverged", message="The loss is no number.")
            report.emit("run_finished", 0, failed)
            return 1
        if mode == "die" and step == 2:
            print("CUDA out of memory while computing", flush=True)
            os._exit(7)
        if step % spec.config.evaluation.interval_steps == 0 or step == total or asked:
            raised = (mode == "loops" and step in {4, 6}) or (mode == "both" and step == 4)
            alarms = [alarm("loops")] if raised else [alarm("empty")] if mode == "both" and step == 6 else []
            save(spec, report, step, total, alarms)
            if any(found.kind not in spec.acknowledged_alarms for found in alarms):
                paused = RunFinished(status="paused", message=f"Paused at step {step}: {alarms[0].text}")
                report.emit("run_finished", step, paused)
                return 0
        if mode == "tidy" and step == total:
            first = checkpoint_path(Path(spec.attempt_dir), 2)
            shutil.rmtree(first)
            told = CheckpointRemoved(step=2, path=str(first.relative_to(spec.attempt_dir)))
            report.emit("checkpoint_removed", total, told)
        if asked:
            report.emit("run_finished", 0, RunFinished(status="stopped"))
            return 0
    report.emit("run_finished", 0, RunFinished(status="succeeded"))
    return 0


def started(total: int, start: int) -> RunStarted:
    return RunStarted(
        total_steps=total,
        start_step=start,
        num_train_rows=120,
        num_dev_rows=4,
        num_skipped_rows=0,
        attention="none",
        precision="float32",
        device="cpu",
        num_parameters=NUM_PARAMETERS,
        num_trainable_parameters=NUM_PARAMETERS,
        desirable_weight=1.0,
        undesirable_weight=1.0,
    )


def alarm(kind: Literal["loops", "empty"]) -> Alarm:
    return Alarm(
        kind=kind, level="critical", metric="loop_rate", reference=0.0, policy=0.4, change=0.4, text=f"Too many {kind}."
    )


def save(spec: TrainSpec, report: JsonlReporter, step: int, total: int, alarms: Sequence[Alarm] = ()) -> None:
    path = checkpoint_path(Path(spec.attempt_dir), step)
    path.mkdir(parents=True)
    files = {"adapter_model.safetensors": b"adapter", "state.pt": str(step).encode()}
    for name, content in files.items():
        (path / name).write_bytes(content)
    manifest = Manifest(
        run_id=spec.run_id,
        step=step,
        total_steps=total,
        config=spec.config.to_json(),
        snapshot_hash="",
        pins={},
        progress={},
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    text = json.dumps(dataclasses.asdict(manifest))
    (path / "manifest.json").write_text(text)
    saved = CheckpointSaved(
        step=step,
        path=str(path.relative_to(spec.attempt_dir)),
        size_bytes=len(text),
        manifest_sha256=hashlib.sha256(text.encode()).hexdigest(),
        is_last=step == total,
    )
    report.emit("checkpoint_saved", step, saved)
    report.emit("evaluation_finished", step, dataclasses.replace(evaluation(spec, step), alarms=list(alarms)))


def evaluation(spec: TrainSpec, step: int) -> EvaluationResult:
    samples = Path(spec.attempt_dir) / "evaluations" / f"step-{step:06d}" / "samples.jsonl"
    samples.parent.mkdir(parents=True)
    samples.write_text("")
    figure = Estimate(value=0.5 + 0.05 * step, low=0.4 + 0.05 * step, high=0.6 + 0.05 * step, n=4)
    heldout = HeldoutResult(
        num_desirable=2,
        num_undesirable=2,
        accuracy=figure,
        auc=figure,
        auc_within_prompt=figure,
        auc_length=figure,
        kl=figure,
        reward_desirable=0.1,
        reward_undesirable=-0.1,
    )
    relative = str(samples.relative_to(spec.attempt_dir))
    return EvaluationResult(step=step, heldout=heldout, diversity=None, samples_path=relative, seconds=0.1)


if __name__ == "__main__":
    sys.exit(main())
