"""Going on from a checkpoint: only the same run on the same footing, and what was interrupted is completed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from worker.alignment.checkpoints import MANIFEST, Manifest, SavedCheckpoint, validate_checkpoint
from worker.alignment.config import AlignmentConfig, TrainSpec
from worker.alignment.errors import CheckpointError


def open_resume(spec: TrainSpec) -> Manifest | None:
    """Validate the checkpoint that the spec goes on from, before anything costly. Raises CheckpointError."""
    if spec.resume_from is None:
        return None
    try:
        manifest = validate_checkpoint(Path(spec.resume_from))
    except CheckpointError as error:
        text = str(error).rstrip(".")
        raise CheckpointError(f"{text}; name the checkpoint before it, or leave resume_from out.") from error
    if manifest.run_id != spec.run_id:
        raise CheckpointError(
            f"The checkpoint is of run {manifest.run_id}, this is run {spec.run_id}; leave resume_from out or name one of its own."
        )
    changed = _difference(manifest.config, json.loads(json.dumps(spec.config.to_json())))
    if changed:
        raise CheckpointError(f"The setting {changed} differs from the checkpoint's; start a new run to change it.")
    pins = environment_pins()
    check_pins({name: manifest.pins.get(name) for name in pins}, pins)
    return manifest


def environment_pins() -> dict[str, Any]:
    """What the numbers of a run rest on beside its data and model: other library versions may sum in another order."""
    return {
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "peft": version("peft"),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
    }


def pin_threads(config: AlignmentConfig, manifest: Manifest | None) -> None:
    """Torch's CPU threads: as set, else as the checkpoint had them (sums depend on their number), else torch's choice."""
    threads = config.num_threads or (int(manifest.pins["threads"]) if manifest is not None else 0)
    if threads:
        torch.set_num_threads(threads)


def check_same_data(manifest: Manifest, snapshot_hash: str, total_steps: int) -> None:
    """Raise CheckpointError where the data is not the checkpoint's."""
    if manifest.snapshot_hash != snapshot_hash:
        raise CheckpointError("The snapshot differs from the checkpoint's; start a new run for new data.")
    if manifest.total_steps != total_steps:
        raise CheckpointError(
            f"The checkpoint's run has {manifest.total_steps} steps, this one {total_steps}; start a new run."
        )


def check_pins(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise CheckpointError where base model or numerical footing changed since the checkpoint."""
    changed = _difference(before, now)
    if changed:
        text = f"{changed} was {before.get(changed)!r} and is {now.get(changed)!r}"
        raise CheckpointError(f"The run cannot go on bit for bit: {text}; put it back, or start a new run.")


def told_evaluation(checkpoint: Path) -> dict[str, Any] | None:
    """What the attempt that a checkpoint lies in told of its evaluation; None where it did not come to that."""
    step = int(checkpoint.name.removeprefix("step-"))
    try:
        lines = (checkpoint.parent.parent / "events.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    except OSError:
        return None
    told = (json.loads(line) for line in lines if '"evaluation_finished"' in line)
    found = (e["data"] for e in told if e["kind"] == "evaluation_finished" and e["step"] == step)
    return next(found, None)


def adopt_checkpoint(source: Path, target: Path) -> SavedCheckpoint:
    """Bring an earlier attempt's checkpoint into this one (hard links where the disk allows): same manifest, same hash."""
    if source.resolve() != target.resolve():
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial, copy_function=_link, ignore=shutil.ignore_patterns("KEEP"))
        partial.rename(target)
    digest = hashlib.sha256((target / MANIFEST).read_bytes()).hexdigest()
    size = sum(file.stat().st_size for file in target.iterdir())
    return SavedCheckpoint(path=target, size_bytes=size, manifest_sha256=digest)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _difference(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> str | None:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            if found := _difference(old, new, f"{prefix}{name}."):
                return found
        elif old != new:
            return prefix + name
    return None
