"""All that can be refused before the base model's weights are loaded, and before anything is written.

Each refusal is a SpecError of one line, ``field: what is wrong; remedy``. What was read on the way (the tokenised
splits above all) is handed on to the run. What only shows later (damaged weights, a full disk) fails the run instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from worker.alignment.checkpoints import MANIFEST, Manifest, validate_checkpoint
from worker.alignment.config import AlignmentConfig, TrainSpec
from worker.alignment.dataset import Encoder, Row, SkippedRow, Split, load_split, read_manifest
from worker.alignment.errors import CheckpointError, DataError, ModelError, SpecError, StopRequest
from worker.alignment.positions import check_positions
from worker.alignment.prompts import PromptCase, prompt_cases, read_prompts
from worker.alignment.resume import check_same_data, open_resume
from worker.alignment.schedule import total_steps
from worker.alignment.units import Units, form_units

NEW_SNAPSHOT = "freeze a new snapshot"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """A spec that may run, and what was read to know it."""

    model_config: Any
    """The base model's transformers config."""
    tokenizer: Any
    end_ids: frozenset[int]
    """Tokens that end an answer."""
    train: Split
    """Its rows are those that ``units`` use."""
    rated: list[Row]
    """All training rows, whatever the objective leaves out: what votes say is learned from them."""
    units: Units
    dev: Split
    prompts: list[PromptCase]
    """What diversity is sampled on: of the spec's file, else of the dev split."""
    snapshot_hash: str
    manifest: Manifest | None
    """Of the checkpoint to go on from."""


def check_spec(spec: TrainSpec, *, should_stop: Callable[[], bool] = lambda: False) -> Checked:
    """Read config, tokenizer, snapshot and checkpoint. Raises SpecError; StopRequest where ``should_stop`` turned true."""
    config = spec.config
    check_device(config)
    with refused("resume_from"):
        manifest = open_resume(spec)
    model_config = read_model_config(spec.model_path, config.base_model)
    tokenizer = read_tokenizer(spec.model_path, config)
    end_ids = _end_ids(spec.model_path, model_config, tokenizer)
    check_adapters(spec, model_config)

    def on_row() -> None:
        if should_stop():
            raise StopRequest

    snapshot = Path(spec.snapshot_dir)
    with refused("snapshot_dir", f"{NEW_SNAPSHOT} or name another folder"):
        snapshot_hash = read_manifest(snapshot)["hash"]
        train, dev = (
            load_split(
                snapshot / f"{name}.jsonl", tokenizer, max_length=config.max_length, end_ids=end_ids, on_row=on_row
            )
            for name in ("train", "dev")
        )
    check_rows(train, dev, config)
    encoder = Encoder(tokenizer, max_length=config.max_length, end_ids=end_ids)
    with refused("diversity_prompts", "mend the file, or leave it out for the dev split's prompts"):
        prompts = (
            read_prompts(Path(spec.diversity_prompts), encoder)
            if spec.diversity_prompts
            else prompt_cases(dev.rows, encoder)
        )
    check_positions([*train.rows, *dev.rows], config, model_config)
    rows, units = used_rows(train.rows, form_units(train.rows, config))
    if not units.units:
        raise SpecError(_no_units(config))
    if manifest is not None:
        with refused("resume_from"):
            check_same_data(manifest, snapshot_hash, total_steps(config, len(units.units)))
    return Checked(
        model_config=model_config,
        tokenizer=tokenizer,
        end_ids=end_ids,
        train=Split(rows, train.skipped),
        rated=train.rows,
        units=units,
        dev=dev,
        prompts=prompts,
        snapshot_hash=snapshot_hash,
        manifest=manifest,
    )


@contextmanager
def refused(field: str, remedy: str = "") -> Iterator[None]:
    """A sentence of the library becomes the refusal of ``field``."""
    try:
        yield
    except (DataError, CheckpointError, ModelError) as error:
        raise SpecError(_line(field, str(error), remedy)) from error


def check_parallel(config: AlignmentConfig, num_processes: int) -> None:
    """Sharding takes weights apart as they are; a 4-bit layer's are packed with their scales."""
    if num_processes > 1 and config.parallel == "fsdp" and config.quantization != "none":
        raise SpecError("parallel: fsdp does not shard a quantised base; use ddp, or set quantization to none")


def check_device(config: AlignmentConfig) -> None:
    """What the settings need of the machine is here: packages, a CUDA device, half precision."""
    from worker.alignment.attention import choose_backend
    from worker.alignment.base_model import four_bit
    from worker.alignment.policy import resolve_device, resolve_dtype

    device = resolve_device()
    dtype = resolve_dtype(config.precision, device)
    try:
        choose_backend(config.attention, device, dtype)
        if config.quantization == "4bit":
            four_bit(dtype)
    except (ValueError, ModelError) as error:
        raise SpecError(str(error).rstrip(".")) from error


def check_folders(spec: TrainSpec) -> None:
    """An attempt's folder is used once; where files will be written, they can be. Before a reporter opens its file."""
    for field in ("attempt_dir", "cache_dir"):
        folder = Path(getattr(spec, field))
        try:
            if field == "attempt_dir" and spec.events_path.exists():
                raise SpecError(f"attempt_dir: {folder} already holds an attempt; give each its own folder")
            while not folder.exists() and folder != folder.parent:
                folder = folder.parent
        except OSError as error:  # a name that is too long, a folder that must not be looked into
            raise SpecError(
                f"{field}: {getattr(spec, field)} cannot be read ({error.strerror}); name another"
            ) from error
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise SpecError(f"{field}: {folder} is not a folder that can be written; name another")


def read_model_config(path: str, name: str) -> Any:
    """The transformers config of the base model, which must be a causal LM with safetensors files."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    from worker.alignment.base_model import UNREADABLE

    folder = Path(path)
    remedy = "name the folder of a Hugging Face causal language model"
    if folder.is_absolute() and not folder.is_dir():
        raise SpecError(f"base_model: {name} is not there (no folder {path}); {remedy}")
    if (folder / "adapter_config.json").is_file():
        raise SpecError(f"base_model: {name} is an adapter; export it as a merged model and train on that")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=folder.is_dir())
    except (*UNREADABLE, TypeError, AttributeError) as error:
        raise SpecError(_line("base_model", f"{name} has no readable config.json: {error}", remedy)) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise SpecError(f"base_model: {name} is of type {config.model_type}, not a causal language model; {remedy}")
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise SpecError(f"base_model: {name} has no .safetensors file; save it with save_pretrained")
    return config


def read_tokenizer(path: str, config: AlignmentConfig) -> Any:
    """The tokenizer, which must have an end-of-sequence token and, unless ``allow_incomplete``, a chat template."""
    from transformers import AutoTokenizer

    from worker.alignment.base_model import UNREADABLE

    name = config.base_model
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=Path(path).is_dir())
    except (*UNREADABLE, TypeError, AttributeError) as error:
        line = _line("base_model", f"{name} has no readable tokenizer: {error}", "save it with save_pretrained")
        raise SpecError(line) from error
    if tokenizer.eos_token_id is None:
        raise SpecError(
            f"base_model: the tokenizer of {name} has no end-of-sequence token; set eos_token in tokenizer_config.json"
        )
    if not tokenizer.chat_template and not config.allow_incomplete:
        raise SpecError(
            f"base_model: the tokenizer of {name} has no chat template; set chat_template in tokenizer_config.json, "
            "or allow_incomplete for plain role: content lines"
        )
    return tokenizer


def check_adapters(spec: TrainSpec, model_config: Any) -> None:
    """The modules to adapt exist; an adapter to go on from is this base model's: by its tensors, by a manifest beside it."""
    from worker.alignment.adapters import check_adapter, check_lora
    from worker.alignment.reference import weights_hash

    if not spec.config.init_adapter:
        lora = spec.config.lora
        named = lora.target_modules != ("all-linear",)  # which fits any model with linear layers
        if named and (sentence := check_lora(lora, model_config)):
            raise SpecError(sentence.rstrip("."))
        return
    folder = Path(spec.config.init_adapter)
    remedy = "name the folder of a LoRA adapter that was trained on this base_model"
    if sentence := check_adapter(folder, model_config):
        raise SpecError(_line("init_adapter", sentence.removeprefix("init_adapter: "), remedy))
    if not (folder / MANIFEST).is_file():
        return
    with refused("init_adapter", remedy):
        trained_on = validate_checkpoint(folder).pins.get("base")
    if Path(spec.model_path).is_dir() and trained_on != weights_hash(Path(spec.model_path)):
        raise SpecError(f"init_adapter: {folder} was trained on other weights than base_model's; {remedy}")


def check_rows(train: Split, dev: Split, config: AlignmentConfig) -> None:
    """Refuse a row that is too long (``long_rows``), an empty split and, unless ``allow_incomplete``, a missing class."""
    too_long = next((row for row in (*train.skipped, *dev.skipped) if row.is_too_long), None)
    if too_long is not None and config.long_rows == "refuse":
        raise SpecError(f"max_length: row {too_long.id}: {too_long.reason}; raise it, or set long_rows to skip")
    if not train.rows:
        raise SpecError(
            f"snapshot_dir: the train split has no usable row{most_frequent(train.skipped)}; {NEW_SNAPSHOT}"
        )
    if config.allow_incomplete:
        return
    if not dev.rows:
        raise SpecError(
            f"snapshot_dir: the dev split has no usable row{most_frequent(dev.skipped)}; {NEW_SNAPSHOT}, or set "
            "allow_incomplete to train without evaluation"
        )
    labels = {row.label for row in train.rows}
    if len(labels) == 1 and config.objective in {"kto", "apo_zero_unpaired"}:
        side, other = ("desirable", "undesirable") if labels == {True} else ("undesirable", "desirable")
        raise SpecError(
            f"snapshot_dir: all training rows are {side}; {NEW_SNAPSHOT} with {other} ones, or set allow_incomplete"
        )


def used_rows(rows: list[Row], units: Units) -> tuple[list[Row], Units]:
    """The rows that some unit uses, and the units with their new places: what is left out is not scored either."""
    if not units.num_left_out:
        return rows, units
    used = sorted({index for unit in units.units for index in unit})
    place = {index: number for number, index in enumerate(used)}
    moved = [tuple(place[index] for index in unit) for unit in units.units]
    return [rows[index] for index in used], Units(moved, units.num_left_out)


def most_frequent(skipped: Sequence[SkippedRow]) -> str:
    """`` (most often: …)``, or nothing where no row was skipped."""
    if not skipped:
        return ""
    reasons = [row.reason for row in skipped]
    return f" (most often: {max(dict.fromkeys(reasons), key=reasons.count)})"


def _no_units(config: AlignmentConfig) -> str:
    if config.objective == "dpo" or config.data == "paired":
        field, finds, use = ("objective", "dpo", "kto") if config.objective == "dpo" else ("data", "paired", "all")
        return (
            f"{field}: {finds} finds no prompt with a desirable and an undesirable completion; "
            f"use {use}, or {NEW_SNAPSHOT} with both"
        )
    return f"objective: sft finds no desirable row; {NEW_SNAPSHOT} with some"


def _end_ids(path: str, model_config: Any, tokenizer: Any) -> frozenset[int]:
    """As ``end_token_ids`` finds them once the model is loaded: a folder without a generation config uses the model's."""
    from transformers import GenerationConfig

    from worker.alignment.generate import end_token_ids

    try:
        generation = GenerationConfig.from_pretrained(path, local_files_only=Path(path).is_dir())
    except OSError:
        generation = GenerationConfig.from_model_config(model_config)
    return frozenset(end_token_ids(SimpleNamespace(generation_config=generation), tokenizer))


def _line(field: str, text: str, remedy: str) -> str:
    """One line, whatever the length of a library's own words."""
    first = (text.strip().splitlines() or [""])[0].rstrip(".")
    return f"{field}: {first}; {remedy}" if remedy else f"{field}: {first}"
