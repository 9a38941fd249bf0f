"""The arms of an evaluation on one loaded base model: adapters are swapped, the base never is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from worker.alignment.adapters import SETTINGS, TRAINED, WEIGHTS, adapter_shapes, read_settings
from worker.alignment.config import AlignmentConfig, LoraSettings
from worker.alignment.errors import ModelError
from worker.alignment.logps import Head
from worker.alignment.policy import Policy, load_policy

ARM = "arm"
"""peft's name of the adapter that is being evaluated."""


def load_base(model_path: str, config: AlignmentConfig) -> Policy:
    """The base model with precision, attention and lengths of ``config``. Raises ModelError.

    Its own adapter is empty (B = 0) and of the lowest rank: it only makes it the policy that scoring knows.
    """
    plain = replace(config, init_adapter="", reference="", lora=LoraSettings(r=1, alpha=1), compile=False)
    return load_policy(model_path, plain)


@contextmanager
def arm(policy: Policy, adapter_dir: str) -> Iterator[None]:
    """Inside, ``policy`` is the base with the adapter of this folder; with "" the bare base. No gradient.

    Raises ModelError where the adapter cannot be read or is of another base model.
    """
    if not adapter_dir:
        with policy.as_reference():
            yield
        return
    folder, model = Path(adapter_dir), policy.model
    shapes = adapter_shapes(folder)
    settings = read_settings(folder)
    settings.inference_mode = True
    try:
        model.add_adapter(ARM, settings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ModelError(f"The adapter {folder} does not fit the base model: {_first_line(error)}") from error
    try:
        own = {name: tuple(value.shape) for name, value in _own_tensors(model).items()}
        if own != shapes:
            wrong = min(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
            raise ModelError(f"The adapter {folder} is of another base model: {wrong} does not fit.")
        set_peft_model_state_dict(model, load_file(folder / WEIGHTS), adapter_name=ARM)
        model.to(policy.device)
        model.set_adapter(ARM, inference_mode=True)
        policy.head = Head.of(policy.lm)  # the adapter may be on the head
        with torch.no_grad():
            yield
    finally:
        model.set_adapter(TRAINED, inference_mode=True)
        model.delete_adapter(ARM)
        policy.head = Head.of(policy.lm)


def adapter_identity(adapter_dir: str) -> str:
    """``base``, or a hash (sha256) of the adapter's two files: for keys of what is cached."""
    if not adapter_dir:
        return "base"
    digest = hashlib.sha256()
    for name in (SETTINGS, WEIGHTS):
        with (Path(adapter_dir) / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _own_tensors(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = get_peft_model_state_dict(model, adapter_name=ARM, save_embedding_layers=False)
    return found


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
