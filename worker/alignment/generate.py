"""Samples completions from any Hugging Face causal LM: batched, with a KV cache, K samples a prompt.

A prompt is run once and its cache repeated K times; finished rows leave the batch. Randomness comes from a generator of
its own, so that sampling in the middle of a training run leaves the run's random numbers alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from worker.alignment.adapters import reference_mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    samples_per_prompt: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    """0: the most probable token (greedy)."""
    top_p: float = 1.0
    seed: int = 0
    rows_per_batch: int = 256
    """Upper bound of sequences that run together."""
    tokens_per_batch: int = 65536
    """Upper bound of the tokens that they may come to: the size of the KV cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    text: str
    num_tokens: int
    """Sampled tokens, the end token included."""
    truncated: bool
    """True where max_new_tokens came before an end token."""


def end_token_ids(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: the generation config's and the tokenizer's."""
    found: set[int] = set()
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    for value in (configured, tokenizer.eos_token_id):
        found.update(value if isinstance(value, (list, tuple)) else [] if value is None else [value])
    return found


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    use_adapter: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[list[Sample]]:
    """K samples for every prompt (token ids, not empty), in the order of ``prompts``.

    ``use_adapter`` False samples from the reference: the model under ``adapters.reference_mode``. ``on_progress`` gets the
    number of prompts done and of all. The model's train or eval mode is restored.
    """
    batches = _batches(prompts, sampling)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(sampling.seed)
    results: list[list[Sample]] = [[] for _ in prompts]
    with _evaluating(model), nullcontext() if use_adapter else reference_mode(model):
        done = 0
        for part in batches:
            tokens = _generate_batch(model, tokenizer, [prompts[index] for index in part], sampling, generator)
            for row, sample in enumerate(_decode(model, tokenizer, tokens)):
                results[part[row // sampling.samples_per_prompt]].append(sample)
            done += len(part)
            if on_progress is not None:
                on_progress(done, len(prompts))
    return results


def _batches(prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
    """Indices of the prompts, short ones first, as many together as the bounds allow."""
    batches: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index)):
        rows = (len(batches[-1]) + 1 if batches else 1) * sampling.samples_per_prompt
        tokens = rows * (len(prompts[index]) + sampling.max_new_tokens)
        if not batches or rows > sampling.rows_per_batch or tokens > sampling.tokens_per_batch:
            batches.append([])
        batches[-1].append(index)
    return batches


def _generate_batch(
    model: Any, tokenizer: Any, prompts: list[Sequence[int]], sampling: Sampling, generator: torch.Generator
) -> list[list[int]]:
    """Token ids of every sample, [len(prompts) * K] lists; prompts are padded on the left."""
    device, repeats = generator.device, sampling.samples_per_prompt
    width = max(len(prompt) for prompt in prompts)
    pad = int(tokenizer.pad_token_id or 0)
    ids_BT = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    cache = _make_cache(_inner(model).config)
    # Some recurrent states can be neither repeated nor thinned out: such a model runs every prompt K times over.
    flexible = all(hasattr(layer, "batch_select_indices") for layer in cache.layers)
    if not flexible:
        ids_BT, mask_BT = ids_BT.repeat_interleave(repeats, 0), mask_BT.repeat_interleave(repeats, 0)
    logits_RV = _forward(model, ids_BT, mask_BT, (mask_BT.cumsum(1) - 1).clamp(min=0), cache)
    mask_RT = mask_BT
    if flexible:
        cache.batch_repeat_interleave(repeats)
        logits_RV, mask_RT = logits_RV.repeat_interleave(repeats, 0), mask_BT.repeat_interleave(repeats, 0)
    ends = torch.tensor(sorted(end_token_ids(model, tokenizer)) or [-1], device=device)
    rows_R = torch.arange(len(prompts) * repeats, device=device)  # where each running row belongs
    out = torch.full((len(rows_R), sampling.max_new_tokens), -1, device=device)
    for position in range(sampling.max_new_tokens):
        token_R = _choose(logits_RV, sampling, generator)
        out[rows_R, position] = token_R
        running_R = ~torch.isin(token_R, ends)
        if position + 1 == sampling.max_new_tokens or not running_R.any():
            break
        # Dropping rows copies the cache: worth it once a quarter has finished.
        if flexible and running_R.sum() <= 0.75 * len(rows_R):
            kept = running_R.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows_R, token_R, mask_RT = rows_R[kept], token_R[kept], mask_RT[kept]
        mask_RT = torch.cat([mask_RT, torch.ones_like(mask_RT[:, :1])], 1)
        logits_RV = _forward(model, token_R[:, None], mask_RT, mask_RT.sum(1, keepdim=True) - 1, cache)
    return [_cut(row, set(ends.tolist())) for row in out.tolist()]


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that leaves room to grow: appending a token copies that token, not the whole cache."""

    _room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        used = int(self.get_seq_length())
        if used == 0:
            self.keys, self.values = super().update(key_states, value_states, *args, **kwargs)
            return self.keys, self.values
        total = used + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < total:
            self._room = _with_room(self.keys, total), _with_room(self.values, total)
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., used:total, :] = new
        self.keys, self.values = (room[..., :total, :] for room in self._room)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._room = None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._room = None


def _with_room(old: torch.Tensor, total: int) -> torch.Tensor:
    room = old.new_empty((*old.shape[:-2], total + max(64, total // 2), old.shape[-1]))
    room[..., : old.shape[-2], :] = old
    return room


def _make_cache(config: Any) -> DynamicCache:
    """The model's own kind of cache; its plain layers are replaced by roomy ones, windows and states stay."""
    cache = DynamicCache(config=config)
    cache.layers = [_RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _forward(
    model: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, positions_BT: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Next-token logits, float32 [B, V]."""
    extra = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(_inner(model).forward).parameters else {}
    output = model(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        position_ids=positions_BT,
        past_key_values=cache,
        use_cache=True,
        **extra,
    )
    logits: torch.Tensor = output.logits[:, -1]
    return logits.float()


def _choose(logits_BV: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """One token a row, [B], by inversion: a single random number a row."""
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    probs_BV = (logits_BV / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        sorted_BV, index_BV = probs_BV.sort(-1, descending=True)
        sorted_BV[sorted_BV.cumsum(-1) - sorted_BV >= sampling.top_p] = 0  # the token that crosses top_p stays
        probs_BV = torch.zeros_like(probs_BV).scatter_(-1, index_BV, sorted_BV)
    cumulative_BV = probs_BV.cumsum(-1)
    draw_B1 = torch.rand((len(probs_BV), 1), generator=generator, device=probs_BV.device) * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, draw_B1, right=True)[:, 0].clamp(max=probs_BV.shape[1] - 1)


def _cut(row: list[int], ends: set[int]) -> list[int]:
    """Up to and with the first end token."""
    for position, token in enumerate(row):
        if token in ends:
            return row[: position + 1]
    return row


def _decode(model: Any, tokenizer: Any, rows: list[list[int]]) -> Iterator[Sample]:
    ends = end_token_ids(model, tokenizer)
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    for row, text in zip(rows, texts, strict=True):
        yield Sample(text=text.strip(), num_tokens=len(row), truncated=row[-1] not in ends)


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Eval mode inside, every module's own mode again after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
