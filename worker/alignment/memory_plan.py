"""How much to recompute so that a step fits, and what else would fit where nothing does: free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from worker.alignment.config import AlignmentConfig
from worker.alignment.errors import Reason, TrainingError
from worker.alignment.footprint import (
    MemoryParts,
    Workload,
    element_width,
    fitting_layers,
    memory_parts,
    microbatch_tokens,
)
from worker.alignment.shapes import DataSize, DeviceKind, model_size

GIB = 2**30
NUM_SUGGESTIONS = 3
FAILED_SHARE = 0.9
"""Where a step ran out of memory, other settings must need less than this share of what it was thought to need."""


class DoesNotFitError(TrainingError):
    """No amount of recomputation makes the step fit."""

    reason: ClassVar[Reason] = "out_of_memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    checkpointing: Literal["none", "selective", "full"]
    num_recomputed_layers: int
    """The first so many."""
    num_layers: int
    parts: MemoryParts
    limit_bytes: int
    reason: str
    """One sentence for the user."""


def memory_plan(work: Workload, limit_bytes: int, *, at_least: int = 0) -> MemoryPlan:
    """The least recomputation that fits the limit (the config's own, where it has one).

    A checkpointing that the config names is taken even where it is thought not to fit. ``at_least``: so many layers,
    where fewer were tried and failed. Raises DoesNotFitError with three settings that would fit, and ValueError on an
    unknown kind of model.
    """
    limit = round(work.config.memory_limit_gib * GIB) or limit_bytes
    num_layers = model_size(work.model_config, rank=work.config.lora.r).num_layers
    named = work.config.checkpointing
    layers = fitting_layers(work, limit, at_least=at_least)
    if layers is None and named == "auto":
        least = memory_parts(work, num_layers).total_bytes
        words = f"A step needs {_gib(least)} with every layer recomputed, and there are {_gib(limit)}"
        raise DoesNotFitError(f"{words}: {advice(work, limit)}.")
    if layers is None:
        layers = {"none": 0, "full": num_layers}.get(named, max(1, num_layers - 1))
    parts = memory_parts(work, layers)
    return MemoryPlan(
        checkpointing="none" if layers == 0 else "full" if layers == num_layers else "selective",
        num_recomputed_layers=layers,
        num_layers=num_layers,
        parts=parts,
        limit_bytes=limit,
        reason=_reason(
            layers,
            num_layers,
            total=parts.total_bytes,
            nothing=memory_parts(work, 0).total_bytes,
            limit=limit,
            named=named != "auto",
        ),
    )


def _reason(layers: int, num_layers: int, *, total: int, nothing: int, limit: int, named: bool) -> str:
    done = f"{layers} of {num_layers} layers are recomputed in the backward pass" if layers else "Nothing is recomputed"
    text = f"{done}: a step needs about {_gib(total)} of {_gib(limit)}"
    if named:
        return f"{text}, as checkpointing says" + ("; it may not fit." if total > limit else ".")
    return f"{text}; {_gib(nothing)} with every activation kept." if layers else f"{text}."


def advice(work: Workload, limit_bytes: int) -> str:
    """``suggestions`` as a clause of a sentence."""
    found = [str(each) for each in suggestions(work, limit_bytes)]
    if not found:
        return f"no setting makes this model fit {_gib(limit_bytes)}; use a larger device"
    return "use " + (f"{', '.join(found[:-1])} or {found[-1]}" if len(found) > 1 else found[0])


@dataclass(frozen=True, slots=True)
class Suggestion:
    settings: str
    """As ``tokens_per_microbatch 2048``; commas join settings that belong together."""
    total_bytes: int
    """A step's peak with it."""

    def __str__(self) -> str:
        return f"{self.settings} ({_gib(self.total_bytes)})"


def suggestions(work: Workload, limit_bytes: int) -> list[Suggestion]:
    """Three changes, each of which fits the limit by itself, the least harmful first; fewer where fewer would."""
    found: list[Suggestion] = []
    for candidates in _changes(work.config, work.data, work.device):
        for settings, changed in candidates:
            if any(settings.startswith(f"{each.settings} with") for each in found):
                break  # its first part alone fits
            total = _peak(replace(work, config=changed), limit_bytes)
            if total is not None:
                found.append(Suggestion(settings, total))
                break
        if len(found) == NUM_SUGGESTIONS:
            return found
    for extra, changed in _bases(work):
        for tenths in range(9, 0, -1):  # of the width
            smaller = replace(work, config=changed, model_config=_narrower(work.model_config, tenths / 10))
            total = _peak(smaller, limit_bytes)
            if total is not None:
                count = model_size(smaller.model_config, rank=changed.lora.r).num_parameters
                found.append(Suggestion(f"a base model of at most {_billions(count)} parameters{extra}", total))
                break
        if len(found) == NUM_SUGGESTIONS:
            break
    return found


def out_of_memory_advice(work: Workload, limit_bytes: int, *, num_recomputed_layers: int = 0) -> str:
    """What to say after memory ran out: settings that fit the limit, and need clearly less than what failed."""
    failed = memory_parts(work, num_recomputed_layers).total_bytes
    return advice(work, min(limit_bytes, round(FAILED_SHARE * failed)))


def _peak(work: Workload, limit_bytes: int) -> int | None:
    layers = fitting_layers(work, limit_bytes)
    return None if layers is None else memory_parts(work, layers).total_bytes


Candidates = Iterable[tuple[str, AlignmentConfig]]


def _changes(config: AlignmentConfig, data: DataSize, device: DeviceKind) -> Iterator[Candidates]:
    """Kinds of changes from the least harmful; each gives its settings from the mildest."""
    if config.checkpointing in {"none", "selective"}:
        yield [("checkpointing auto", replace(config, checkpointing="auto"))]
    tokens = microbatch_tokens(config, data)[0]
    longest = min(config.max_length, data.longest_row)
    lighter = list(_lighter(config, device))
    yield _microbatches("", config, tokens)
    for settings in lighter:
        yield [settings]
    yield _lengths("", config, longest)
    yield [
        (f"lora.r {rank}", replace(config, lora=replace(config.lora, r=rank)))
        for rank in (128, 64, 32, 16, 8, 4)
        if rank < config.lora.r
    ]
    for words, changed in lighter:
        yield _microbatches(f"{words} with ", changed, tokens)
        yield _lengths(f"{words} with ", changed, longest)


def _lighter(config: AlignmentConfig, device: DeviceKind) -> Candidates:
    if device == "cuda" and config.quantization == "none":
        yield "quantization 4bit", replace(config, quantization="4bit")
    if element_width(config, device) == 4:
        yield "precision bfloat16", replace(config, precision="bfloat16")


def _microbatches(before: str, config: AlignmentConfig, now: int) -> Candidates:
    for tokens in _below(now):
        yield f"{before}tokens_per_microbatch {tokens}", replace(config, tokens_per_microbatch=tokens)


def _lengths(before: str, config: AlignmentConfig, now: int) -> Candidates:
    for tokens in _below(now):
        changed = replace(config, max_length=tokens, tokens_per_microbatch=tokens)
        yield f"{before}max_length and tokens_per_microbatch {tokens}", changed


def _bases(work: Workload) -> Candidates:
    """What may go with a smaller base model."""
    config, longest = work.config, min(work.config.max_length, work.data.longest_row)
    yield "", config
    yield f" with tokens_per_microbatch {max(64, longest)}", replace(config, tokens_per_microbatch=max(64, longest))
    for words, changed in _lighter(config, work.device):
        yield f" with {words}", changed


def _below(tokens: int) -> list[int]:
    """Round numbers under ``tokens``, largest first."""
    return [size for power in range(16, 5, -1) for size in (2**power + 2 ** (power - 1), 2**power) if size < tokens]


def _narrower(model_config: dict[str, Any], share: float) -> dict[str, Any]:
    """The same model with its width scaled, to find how large a base model may be."""
    text = dict(model_config.get("text_config") or model_config)
    heads = int(text.get("num_attention_heads") or text.get("n_head") or 1)
    hidden = int(text.get("hidden_size") or text["n_embd"])
    text["head_dim"] = max(1, round(int(text.get("head_dim") or hidden // heads) * share))
    for name in ("hidden_size", "n_embd", "intermediate_size", "n_inner", "moe_intermediate_size"):
        if text.get(name):
            text[name] = max(1, round(text[name] * share))
    return {**model_config, "text_config": text} if model_config.get("text_config") else text


def _billions(count: int) -> str:
    return f"{count / 1e9:.1f} billion" if count >= 1e8 else f"{count / 1e6:.0f} million"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
