"""The base model from its files: whole, or refused with a sentence. Nothing is drawn at random in silence."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from worker.alignment.config import Quantization
from worker.alignment.errors import ModelError, is_out_of_memory

UNREADABLE = (OSError, ValueError, KeyError, ImportError, SafetensorError)
"""What transformers raises for files that are missing, damaged or of another kind."""


def load_causal_lm(
    path: str, *, dtype: torch.dtype | Literal["auto"], name: str = "", quantization: Quantization = "none"
) -> Any:
    """A causal LM from a local folder or a hub id: safetensors only, no remote code, no network for a folder.

    transformers fills a tensor that the files lack with random numbers and only logs it, and loads an adapter's folder
    as base plus adapter (the reference would then be neither); both are refused here. Raises ModelError; ``name`` is
    what the user calls the model. ``quantization`` 4bit puts it on the CUDA device at once, computing in ``dtype``.
    """
    name, folder = name or path, Path(path)
    extra = four_bit(dtype) if quantization == "4bit" else {}
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
            **extra,
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


def four_bit(dtype: torch.dtype | Literal["auto"]) -> dict[str, Any]:
    """Loader arguments for NF4 with doubly quantised scales (QLoRA, arXiv 2305.14314).

    Raises ModelError where bitsandbytes or CUDA is missing.
    """
    remedy = "or set it to none."
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"quantization: 4bit needs the package bitsandbytes, which is not installed; install it {remedy}"
        )
    if not torch.cuda.is_available():
        raise ModelError(f"quantization: 4bit needs a CUDA device, and none is here; run on one {remedy}")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else dtype,
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def unreadable(name: str, error: BaseException) -> ModelError:
    """One sentence, whatever the length of the library's own."""
    lines = str(error).strip().splitlines()
    return ModelError(f"The base model {name} cannot be loaded: {lines[0] if lines else type(error).__name__}")
