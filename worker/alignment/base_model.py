"""The base model from its files: whole, or refused with a sentence. Nothing is drawn at random in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from worker.alignment.errors import ModelError, is_out_of_memory

UNREADABLE = (OSError, ValueError, KeyError, ImportError, SafetensorError)
"""What transformers raises for files that are missing, damaged or of another kind."""


def load_causal_lm(path: str, *, dtype: torch.dtype | Literal["auto"], name: str = "") -> Any:
    """A causal LM from a local folder or a hub id: safetensors only, no remote code, no network for a folder.

    transformers fills a tensor that the files lack with random numbers and only logs it, and loads an adapter's folder
    as base plus adapter (the reference would then be neither); both are refused here. Raises ModelError; ``name`` is
    what the user calls the model.
    """
    name, folder = name or path, Path(path)
    if folder.is_absolute() and not folder.is_dir():
        raise ModelError(f"The base model {name} cannot be loaded: there is no folder {path}.")
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"The base model {name} is an adapter; export it as a merged model and train on that.")
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=folder.is_dir(),
            ignore_mismatched_sizes=True,  # so that they are named below, not raised without their names
            output_loading_info=True,
        )
    except UNREADABLE as error:
        if is_out_of_memory(error):
            raise
        raise unreadable(name, error) from error
    for kind, keys in (("lack", found["missing_keys"]), ("have another shape of", found["mismatched_keys"])):
        if keys:
            first = min(key if isinstance(key, str) else key[0] for key in keys)
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ModelError(f"The base model {name} cannot be loaded: its files {kind} {first}{more}.")
    return model


def unreadable(name: str, error: BaseException) -> ModelError:
    """One sentence, whatever the length of the library's own."""
    lines = str(error).strip().splitlines()
    return ModelError(f"The base model {name} cannot be loaded: {lines[0] if lines else type(error).__name__}")
