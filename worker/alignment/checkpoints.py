"""Checkpoints: a directory that appears whole or not at all, with a manifest of every file's hash.

``step-NNNNNN/`` holds ``adapter_model.safetensors`` + ``adapter_config.json`` (peft's own format, loads anywhere),
``state.pt`` (optimizer and random states, read with ``weights_only=True``) and ``manifest.json``. Torch is imported only
where tensors are touched, so that a supervisor can find and validate checkpoints without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from worker.alignment.errors import CheckpointError

FORMAT = 1
ADAPTER = "adapter_model.safetensors"
STATE = "state.pt"
MANIFEST = "manifest.json"
KEEP = "KEEP"
"""An empty file of this name in a checkpoint's folder: it was promoted, or is in use, and is never removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    run_id: int
    step: int
    """Optimizer steps done; with config and snapshot it fixes the sampler's position."""
    total_steps: int
    config: dict[str, Any]
    snapshot_hash: str
    pins: dict[str, Any]
    """What bit-for-bit resume rests on: base hash, scoring path, backend, dtype, device type, threads."""
    progress: dict[str, float]
    """Running figures of the run, such as the number of clamped steps."""
    files: dict[str, str] = field(default_factory=dict)
    """Name -> sha256 of every other file."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCheckpoint:
    path: Path
    size_bytes: int
    manifest_sha256: str


def checkpoint_path(attempt_dir: Path, step: int) -> Path:
    return attempt_dir / "checkpoints" / f"step-{step:06d}"


def save_checkpoint(path: Path, manifest: Manifest, model: Any, optimizer: Any) -> SavedCheckpoint:
    """Write a checkpoint of a peft model and its optimizer. An existing one at ``path`` (the same step) is replaced."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        adapter = get_peft_model_state_dict(model, save_embedding_layers=False)
        save_file({name: tensor.contiguous().cpu() for name, tensor in adapter.items()}, partial / ADAPTER)
        config = model.peft_config["default"]
        inference_mode, config.inference_mode = config.inference_mode, True
        config.save_pretrained(str(partial))
        config.inference_mode = inference_mode
        with (partial / STATE).open("wb") as state:  # given a path, torch tells of a full disk as of a broken archive
            torch.save({"optimizer": optimizer.state_dict(), "rng": rng_state()}, state)
        hashes = {file.name: _sha256(file) for file in sorted(partial.iterdir())}
        text = json.dumps(asdict(manifest) | {"files": hashes}, indent=1, sort_keys=True)
        (partial / MANIFEST).write_text(text, encoding="utf-8")
        for file in partial.iterdir():
            _fsync(file)
        _fsync(partial)
        size = sum(file.stat().st_size for file in partial.iterdir())
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        _fsync(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return SavedCheckpoint(path=path, size_bytes=size, manifest_sha256=hashlib.sha256(text.encode()).hexdigest())


def validate_checkpoint(path: Path) -> Manifest:
    """Read the manifest and check every file against it. Raises CheckpointError with what is wrong."""
    try:
        data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(**data)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"The checkpoint {path.name} has no readable manifest.json.") from error
    if manifest.format != FORMAT:
        raise CheckpointError(f"The checkpoint {path.name} has format {manifest.format}; this version reads {FORMAT}.")
    for name, digest in manifest.files.items():
        file = path / name
        if Path(name).name != name or not file.is_file() or _sha256(file) != digest:
            raise CheckpointError(f"The checkpoint {path.name} is damaged: {name} differs from its manifest.")
    if not {ADAPTER, STATE} <= manifest.files.keys():
        raise CheckpointError(f"The checkpoint {path.name} is incomplete.")
    return manifest


def latest_valid_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint under ``folder`` (an attempt's ``checkpoints/``) that validates."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            validate_checkpoint(path)
        except CheckpointError:
            continue
        return path
    return None


def hidden_path(path: Path) -> Path:
    """Where a checkpoint lies while it is being removed."""
    return path.with_name(f".{path.name}.removed")


def clear_leftovers(folder: Path) -> None:
    """Finish what a process that was killed left half done in ``folder`` (its attempt's ``checkpoints/``).

    Folders half written or half removed go; one that was hidden and is to be kept gets its name back.
    """
    for left in folder.glob(".step-*"):
        if left.suffix == ".removed" and (left / KEEP).exists():
            left.rename(left.with_name(left.name.removeprefix(".").removesuffix(".removed")))
        else:
            shutil.rmtree(left, ignore_errors=True)


def restore_checkpoint(path: Path, model: Any, optimizer: Any) -> None:
    """Load adapter, optimizer and random states. The manifest was validated before."""
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    result = set_peft_model_state_dict(model, load_file(path / ADAPTER))
    if result.unexpected_keys:
        raise CheckpointError(
            f"The checkpoint {path.name} is of another model: {result.unexpected_keys[0]} is unknown."
        )
    state = torch.load(path / STATE, weights_only=True, map_location="cpu")
    optimizer.load_state_dict(state["optimizer"])
    restore_rng(state["rng"])


def rng_state() -> dict[str, Any]:
    """Torch's generators (dropout is the only chance in training; the sampler is a pure function)."""
    import torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_rng(state: dict[str, Any]) -> None:
    import torch

    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
