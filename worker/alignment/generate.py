"""Samples completions from any Hugging Face causal LM: a pool of rows with a KV cache, K samples a prompt.

A prompt is run once and its cache repeated K times; a finished row's place is taken by a waiting prompt (``generate_pool``).
Randomness comes from streams of its own, one a sample, so that sampling in the middle of a training run leaves the run's
random numbers alone, and a sample is the same whatever ran beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from worker.alignment.adapters import reference_mode
from worker.alignment.generate_pool import Pool


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
    if not prompts:
        return []
    with _evaluating(model), nullcontext() if use_adapter else reference_mode(model):
        pool = Pool(model, prompts, sampling, end_token_ids(model, tokenizer), int(tokenizer.pad_token_id or 0))
        rows = list(_decode(model, tokenizer, pool.run(on_progress)))
    return [
        rows[first : first + sampling.samples_per_prompt] for first in range(0, len(rows), sampling.samples_per_prompt)
    ]


def _decode(model: Any, tokenizer: Any, rows: list[list[int]]) -> Iterator[Sample]:
    ends = end_token_ids(model, tokenizer)
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    for row, text in zip(rows, texts, strict=True):
        yield Sample(text=text.strip(), num_tokens=len(row), truncated=row[-1] not in ends)


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
