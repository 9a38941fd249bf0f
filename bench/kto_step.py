"""What ``bench.training`` and ``bench.training_gpu`` measure: one optimizer step, ours beside the plain one."""

from __future__ import annotations

import copy
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.plain_kto import plain_step
from bench.report import Row, interleave, ratios, row
from worker.alignment.adapters import add_adapters
from worker.alignment.attention import choose_backend
from worker.alignment.config import AlignmentConfig, LoraSettings
from worker.alignment.data import ScoredSplit, score_reference
from worker.alignment.dataset import Pair
from worker.alignment.dataset import Row as DataRow
from worker.alignment.logps import Head
from worker.alignment.policy import Policy, probe, resolve_dtype
from worker.alignment.reference import ReferenceCache
from worker.alignment.step import backward_step

MAX_LENGTH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    vocab: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    rows_per_step: int
    rounds: int


def demo_rows(count: int, vocab: int) -> list[DataRow]:
    """Random tokens with lengths as skewed as chat's: log-normal, median 40 of a prompt and 60 of a completion."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        prompt = int(np.clip(rng.lognormal(np.log(40), 0.7), 4, 200))
        answer = int(np.clip(rng.lognormal(np.log(60), 0.9), 2, MAX_LENGTH - 200))
        pair = Pair(rng.integers(3, vocab, prompt), rng.integers(3, vocab, answer))
        name = str(number)
        rows.append(DataRow(number, pair, bool(rng.random() < 0.6), None, name, name, []))
    return rows


def make_policy(size: Size, config: AlignmentConfig, device: torch.device) -> Policy:
    """A random Llama whose adapters are moved off zero, so that policy and reference differ from the first step on."""
    dtype = resolve_dtype("auto", device)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
    )
    base = LlamaForCausalLM(shape).to(device=device, dtype=dtype)
    model = add_adapters(base, config.lora, seed=0, base_model="random Llama")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    backend = choose_backend("auto", device, dtype)
    return Policy(model, None, Path(), device, dtype, backend, "packed" if backend else "padded", Head.of(base))


class Sides:
    """Both trainers, each with its own copy of the model and its own optimizer, on the same rows in the same order."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.config = AlignmentConfig(base_model="random Llama", learning_rate=1e-3, lora=LoraSettings())
        self.per_step, self.steps = size.rows_per_step, size.rounds + 1
        self.policy = make_policy(size, self.config, device)
        self.plain_model = copy.deepcopy(self.policy.model)
        self.rows = demo_rows(self.per_step * self.steps, size.vocab)
        if notice := probe(self.policy, [each.pair for each in self.rows[:4]]):
            print(notice)
        self.optimizers = [self._optimizer(self.policy.model), self._optimizer(self.plain_model)]
        self.losses: dict[str, list[float]] = {"ours": [], "plain": []}

    def reference(self, folder: Path) -> ScoredSplit:
        """What our run does once before its first step; it is kept for all later epochs and runs."""
        (split,), _ = score_reference(
            self.policy,
            [self.rows],
            ReferenceCache(folder, "00" * 32),
            max_length=MAX_LENGTH,
            token_budget=self.config.tokens_per_microbatch,
            on_progress=lambda _done, _total: None,
        )
        return split

    def ours(self, split: ScoredSplit, number: int) -> None:
        result = backward_step(self.policy, split.batch(self._indices(number)), self.config)
        self.losses["ours"].append(result.loss)
        self._update(0, self.policy.model)

    def plain(self, split: ScoredSplit, number: int) -> None:
        batch = split.batch(self._indices(number))
        loss = plain_step(self.plain_model, batch.pairs, batch.labels, batch.kl_pairs, beta=self.config.beta)
        self.losses["plain"].append(loss)
        self._update(1, self.plain_model)

    def _indices(self, number: int) -> list[int]:
        return list(range((number + 1) * self.per_step, (number + 2) * self.per_step))

    def _optimizer(self, model: Any) -> torch.optim.AdamW:
        chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(chosen, lr=self.config.learning_rate, betas=(0.9, 0.95), weight_decay=0)

    def _update(self, index: int, model: Any) -> None:
        chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.nn.utils.clip_grad_norm_(chosen, self.config.max_grad_norm)
        self.optimizers[index].step()
        self.optimizers[index].zero_grad(set_to_none=True)
        if self.policy.device.type == "cuda":
            torch.cuda.synchronize()


def compare(size: Size, device: torch.device, *, loss_within: float, step_at_least: float | None) -> list[Row]:
    """CPU seconds of this process on a CPU (neighbours do not count), wall-clock seconds on a GPU."""
    torch.set_num_threads(1)
    clock, unit = (time.perf_counter, "s") if device.type == "cuda" else (time.process_time, "CPU s")
    sides = Sides(size, device)
    with tempfile.TemporaryDirectory() as folder:
        began = clock()
        split = sides.reference(Path(folder))
        reference = (clock() - began) / sides.steps
    print(f"attention: {sides.policy.attention_words}; rows a step: {size.rows_per_step}")
    spent = interleave(
        {"ours": lambda n: sides.ours(split, n), "plain": lambda n: sides.plain(split, n)}, size.rounds, clock=clock
    )
    apart = [abs(a - b) for a, b in zip(sides.losses["ours"], sides.losses["plain"], strict=True)]
    first = [seconds + reference for seconds in spent["ours"]]
    return [
        row("our step", unit, spent["ours"]),
        row("our reference, per step, once", unit, [reference]),
        row("plain step", unit, spent["plain"]),
        row("plain / ours, reference known", "x", ratios(spent["plain"], spent["ours"]), at_least=step_at_least),
        row("plain / ours, reference included", "x", ratios(spent["plain"], first), at_least=step_at_least),
        row("difference of loss, largest", "nats", apart, value=max(apart), at_most=loss_within),
    ]
