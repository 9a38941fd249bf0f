"""LoRA adapters through peft: fresh ones, or going on from a folder; and what the reference then is.

The reference needs no second model. It is the base with its adapters off or, where a run goes on from an adapter and
says so, the base with that adapter as it was loaded: a second, frozen adapter beside the trained one.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, Conv1D

from worker.alignment.config import AlignmentConfig, LoraSettings
from worker.alignment.errors import ModelError, is_out_of_memory

TRAINED, REFERENCE = "default", "reference"
"""peft's names of the adapter that is trained and of the frozen one that the reference is made with."""
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
ADAPTABLE = (nn.Linear, nn.Embedding, Conv1D)
UNSUPPORTED = ("modules_to_save", "layer_replication", "trainable_token_indices", "target_parameters")
"""Settings of a peft adapter that change more than low-rank adapters of named modules, which is all the trainer knows."""


def adapt(base: Any, config: AlignmentConfig) -> Any:
    """The peft model that ``config`` describes around a causal LM. Raises ModelError with a sentence for the user."""
    if config.init_adapter:
        return continue_adapter(base, config)
    return add_adapters(base, config.lora, seed=config.seed, base_model=config.base_model)


def add_adapters(base: Any, lora: LoraSettings, *, seed: int, base_model: str, empty: bool = False) -> Any:
    """Wrap a causal LM with fresh LoRA adapters in float32 (B = 0, so the policy starts as the reference).

    ``empty`` leaves them without memory, on the meta device.
    """
    everything = lora.target_modules == ("all-linear",)
    adapter = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if everything else list(lora.target_modules),
        exclude_modules=[name for name, module in base.named_modules() if _is_router(module)] or None,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    if not everything:
        check_targets(base, lora.target_modules)
    torch.manual_seed(seed)
    model = _wrap(base, adapter, empty=empty)
    model.peft_config[TRAINED].base_model_name_or_path = base_model
    return model.eval()


def continue_adapter(base: Any, config: AlignmentConfig) -> Any:
    """Wrap a causal LM with the adapter in the folder ``config.init_adapter``, to be trained further.

    Rank, alpha, targets and kind are the folder's; dropout is a setting of the training and comes from ``config``. With
    ``config.reference`` "adapter" a frozen copy named ``reference`` stands beside it.
    """
    folder = Path(config.init_adapter)
    shapes = adapter_shapes(folder)
    model = _wrap_as(base, folder, dropout=config.lora.dropout)
    if sentence := _misfit(folder, shapes, model):
        raise ModelError(sentence)
    tensors = load_file(folder / WEIGHTS)
    set_peft_model_state_dict(model, tensors)
    if config.reference == "adapter":
        with _quiet():
            model.add_adapter(REFERENCE, read_settings(folder))
        set_peft_model_state_dict(model, tensors, adapter_name=REFERENCE)
        for name, parameter in model.named_parameters():
            if REFERENCE in name.split("."):
                parameter.requires_grad_(False)
    model.peft_config[TRAINED].base_model_name_or_path = config.base_model
    return model.eval()


@contextmanager
def reference_mode(model: Any) -> Iterator[None]:
    """The peft ``model`` is the reference inside: adapters off, or the frozen adapter in place of the trained one."""
    if REFERENCE not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    before = model.base_model.active_adapter
    model.base_model.set_adapter(REFERENCE, inference_mode=True)
    try:
        yield
    finally:
        model.base_model.set_adapter(before, inference_mode=before == [REFERENCE])


def reference_identity(config: AlignmentConfig) -> str:
    """What the reference is beside the base model's files, for every cache key: ``base``, or ``adapter:`` and a hash.

    The hash (sha256) is of the adapter's two files. A quantised base is another model: ``base in 4bit``.
    """
    quantised = "" if config.quantization == "none" else f" in {config.quantization}"
    if config.reference != "adapter":
        return f"base{quantised}"
    digest = hashlib.sha256()
    for name in (SETTINGS, WEIGHTS):
        with (Path(config.init_adapter) / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"adapter:{digest.hexdigest()}{quantised}"


def check_adapter(folder: Path, model_config: Any) -> str | None:
    """Why the adapter in ``folder`` cannot be trained further on a model of this transformers config; None if it can.

    Reads two headers and builds the model without weights: names and shapes are compared, nothing is loaded.
    """
    try:
        shapes = adapter_shapes(folder)
        return _misfit(folder, shapes, _wrap_as(_empty(model_config), folder, dropout=0.0, empty=True))
    except ModelError as error:
        return str(error)


def check_lora(lora: LoraSettings, model_config: Any) -> str | None:
    """Why fresh adapters with these settings do not fit a model of this transformers config; None if they do."""
    try:
        add_adapters(_empty(model_config), lora, seed=0, base_model="", empty=True)
    except ModelError as error:
        return str(error)
    return None


def read_settings(folder: Path) -> LoraConfig:
    """An adapter's own settings. Raises ModelError where they cannot be read, or are more than plain LoRA."""
    if not (folder / SETTINGS).is_file():
        raise ModelError(f"init_adapter: {folder} is not an adapter's folder: it has no {SETTINGS}.")
    try:
        kind = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["peft_type"]
        if kind != "LORA":
            raise ModelError(f"init_adapter: {folder} is a {kind} adapter; only LoRA can be trained further.")
        with _quiet():
            adapter = LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"init_adapter: {folder / SETTINGS} cannot be read: {_first_line(error)}") from error
    used = [name for name in UNSUPPORTED if getattr(adapter, name, None)]
    used += ["bias"] if adapter.bias != "none" else []
    used += ["init_lora_weights"] if str(adapter.init_lora_weights).split("_")[0] in {"pissa", "olora", "corda"} else []
    if used:
        raise ModelError(f"init_adapter: {folder} uses {used[0]}, which changes more than its LoRA matrices.")
    return adapter


def adapter_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an adapter's tensors, from the file's header alone. Raises ModelError."""
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"init_adapter: {folder} is not an adapter's folder: it has no {WEIGHTS}.")
    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"init_adapter: {folder / WEIGHTS} cannot be read: {_first_line(error)}") from error


def check_targets(base: Any, targets: tuple[str, ...]) -> None:
    """Raise ModelError for a name that no linear layer or embedding bears; peft skips such a name in silence."""
    modules = base.named_modules()
    names = [name for name, module in modules if isinstance(module, ADAPTABLE) and not _is_router(module)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            ends = sorted({name.rsplit(".", 1)[-1] for name in names})
            near = difflib.get_close_matches(target.rsplit(".", 1)[-1], ends, n=3, cutoff=0.5) or ends[:8]
            raise ModelError(f"lora.target_modules: no linear layer is named {target}; nearest: {', '.join(near)}.")


def _empty(model_config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model_config)


def _wrap_as(base: Any, folder: Path, *, dropout: float, empty: bool = False) -> Any:
    adapter = read_settings(folder)
    adapter.inference_mode, adapter.lora_dropout = False, dropout
    try:
        return _wrap(base, adapter, empty=empty)
    except ModelError as error:
        raise ModelError(f"init_adapter: {folder} does not fit the base model: {error}") from error


def _wrap(base: Any, adapter: LoraConfig, *, empty: bool = False) -> Any:
    try:
        with _quiet():
            model = get_peft_model(base, adapter, low_cpu_mem_usage=empty)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"The adapters do not fit the model: {_first_line(error)}") from error
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    if getattr(base.config.get_text_config(), "tie_word_embeddings", False) and not all(map(_is_plain, ends)):
        raise ModelError(
            "lora.target_modules: the head shares its weights with the input embeddings in this model, so that an "
            "adapter on one alone could not be merged; leave lm_head and embed_tokens out."
        )
    return model


def _is_router(module: nn.Module) -> bool:
    """A linear layer that returns more than a product, which LoRA cannot stand for: Llama 4's and PhiMoE's."""
    return isinstance(module, nn.Linear) and type(module).__name__.endswith("Router")


def _is_plain(layer: Any) -> bool:
    return not hasattr(layer, "base_layer")


def _misfit(folder: Path, shapes: Mapping[str, tuple[int, ...]], model: Any) -> str | None:
    """The first tensor by which an adapter's file differs from what ``model`` would save, in a sentence."""
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    text = f"init_adapter: {folder} is of another base model: "
    for name in sorted(own.keys() | shapes.keys()):
        if name not in shapes:
            return f"{text}it lacks {name}."
        if name not in own:
            return f"{text}{name} has no place in this one."
        if shapes[name] != tuple(own[name].shape):
            return f"{text}{name} is {list(shapes[name])} and would have to be {list(own[name].shape)}."
    return None


def _first_line(error: BaseException) -> str:
    """One line of a library's words, cut where it prints a whole module."""
    lines = str(error).strip().splitlines()
    return f"{lines[0][:200].rstrip('.(')}." if lines else f"{type(error).__name__}."


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what peft tells its own callers: an old name of a property, tied weights (refused in words after)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*embedding layers", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*was renamed from", category=UserWarning)  # told by its folder
        yield
