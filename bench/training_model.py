"""What the training benchmarks train: a random model, rows of skewed length, and our side of a step.

Everything that touches the trainer's engine stands in ``Ours``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM

from worker.alignment.adapters import adapt
from worker.alignment.attention import choose_backend
from worker.alignment.config import AlignmentConfig, LoraSettings
from worker.alignment.dataset import Pair
from worker.alignment.fused import fuse
from worker.alignment.logps import Head
from worker.alignment.memory import recompute_layers
from worker.alignment.policy import Policy
from worker.alignment.probe import probe
from worker.alignment.reference import FloatArray, ReferenceCache, reference_logps
from worker.alignment.step import StepBatch, StepResult, StepSettings, backward_step
from worker.alignment.tail import install
from worker.alignment.varlen import aligned_to_last_key

ROWS_PER_STEP = 8
LORA_SCALE = 0.02
"""Deviation of the adapters' B, so that policy and reference differ from the first step on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a Llama; the default is the one of the published speed table."""

    vocab: int
    hidden: int = 512
    layers: int = 8
    heads: int = 8
    kv_heads: int = 4
    intermediate: int = 1408
    tied: bool = False
    max_length: int = 1024

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of a layer's seven linear maps."""
        kv = self.kv_heads * self.head_dim
        return {
            "q": (self.hidden, self.hidden),
            "k": (self.hidden, kv),
            "v": (self.hidden, kv),
            "o": (self.hidden, self.hidden),
            "gate": (self.hidden, self.intermediate),
            "up": (self.hidden, self.intermediate),
            "down": (self.intermediate, self.hidden),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The rows of one step with TRL's own mismatched pairs, so that both sides see the same ones."""

    pairs: list[Pair]
    labels: list[bool]
    kl_pairs: list[Pair]

    @property
    def num_tokens(self) -> int:
        return sum(num_tokens(pair) for pair in [*self.pairs, *self.kl_pairs])


def num_tokens(pair: Pair) -> int:
    return len(pair.prompt_ids) + len(pair.completion_ids)


def small_shape(vocab: int) -> Shape:
    """For QUICK=1 and tests."""
    return Shape(vocab=vocab, hidden=128, layers=3, heads=4, kv_heads=2, intermediate=352)


def random_llama(shape: Shape, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """Weights of the seed 0, made on the device; frozen."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.max_length,
        tie_word_embeddings=shape.tied,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.requires_grad_(False).eval()


def twin(base: Any) -> Any:
    """A copy that shares the frozen weights: adapters go into each apart."""
    return copy.deepcopy(base, {id(parameter): parameter for parameter in base.parameters()})


def random_batches(
    count: int, vocab: int, *, rows: int = ROWS_PER_STEP, shared: int = 0, scale: float = 1
) -> list[Batch]:
    """Batches of random tokens: prompts of 30-270 and completions of 10-390, log-normal with means near 102; 60 % desirable.

    ``shared``: so many tokens of one system prompt stand before every prompt. ``scale`` shortens both for a small form.
    """
    rng, coin = np.random.default_rng(4), np.random.default_rng(2)
    system = rng.integers(3, vocab, shared)
    batches = []
    for _ in range(count):
        pairs = []
        for _ in range(rows):
            prompt = int(scale * np.clip(rng.lognormal(np.log(90), 0.5), 30, 270))
            completion = int(scale * np.clip(rng.lognormal(np.log(80), 0.7), 10, 390))
            own = rng.integers(3, vocab, prompt)
            pairs.append(Pair(np.concatenate([system, own]), rng.integers(3, vocab, completion)))
        labels = [bool(value) for value in coin.random(rows) < 0.6]
        batches.append(Batch(pairs, labels, rotated(pairs)))
    return batches


def rotated(pairs: Sequence[Pair]) -> list[Pair]:
    """TRL's mismatched pairs: each prompt with the completion of the row before it, in a ring."""
    return [Pair(pair.prompt_ids, pairs[index - 1].completion_ids) for index, pair in enumerate(pairs)]


def peft_config(lora: LoraSettings) -> LoraConfig:
    """What TRL is given: the same adapters."""
    return LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules="all-linear", bias="none", task_type="CAUSAL_LM")


def bench_config(**changes: Any) -> AlignmentConfig:
    """Our defaults, with the optimizer's and the weights' settings of TRL's defaults."""
    settings: dict[str, Any] = {"learning_rate": 1e-6, "adam_beta2": 0.999, "desirable_weight": 1.0}
    return AlignmentConfig(base_model="random", **{**settings, "undesirable_weight": 1.0, **changes})


class Ours:
    """Our trainer's step on one model: the pieces that ``train`` puts together, without files and events."""

    def __init__(self, base: Any, config: AlignmentConfig, *, scale: float = LORA_SCALE) -> None:
        self.config = config
        model = adapt(base, config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=scale)
        fuse(model)
        dtype, device = base.dtype, base.device
        backend = choose_backend(config.attention, device, dtype)
        contexts = backend not in {"flash", "varlen"} or aligned_to_last_key(backend, device, dtype)
        self.policy = Policy(
            model=model,
            tokenizer=None,
            folder=Path(),
            device=device,
            dtype=dtype,
            backend=backend,
            path="packed" if backend else "padded",
            head=Head.of(base),
            share=contexts,
            continues=contexts,
            tail=contexts and install(base),
        )
        self.settings = StepSettings.of(config)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
        )

    def adapters(self) -> dict[str, torch.Tensor]:
        """Values of the trainable tensors by name, copied."""
        named = self.policy.model.named_parameters()
        return {name: parameter.detach().clone() for name, parameter in named if parameter.requires_grad}

    def recompute(self, num_layers: int) -> None:
        """Let so many layers keep nothing for the backward pass; 0 undoes it."""
        recompute_layers(self.policy.lm, num_layers)

    def probe(self, batches: Sequence[Batch]) -> str | None:
        """As at a run's start: on rows of four lengths, the longest among them."""
        pairs = sorted((pair for batch in batches for pair in batch.pairs), key=num_tokens)
        return probe(self.policy, [pairs[share * (len(pairs) - 1) // 3] for share in range(4)])

    def reference(self, batch: Batch, cache: ReferenceCache) -> FloatArray:
        """The pass of a first epoch, kept on disk: reference log-probs of the rows, then of their mismatched pairs."""
        with self.policy.as_reference():
            return reference_logps(
                [*batch.pairs, *batch.kl_pairs],
                cache,
                self.policy.logps,
                cuts=lambda pairs: self.policy.cuts(pairs, token_budget=self.config.tokens_per_microbatch),
                dtype=self.policy.dtype,
            ).logps

    def step_batch(self, batch: Batch, known: FloatArray) -> StepBatch:
        """``known`` as ``reference`` returns it."""
        rows = len(batch.pairs)
        paired = 2 if self.config.objective == "dpo" else 1
        return StepBatch(
            ids=list(range(rows)),
            pairs=batch.pairs,
            labels=batch.labels,
            units=[row // paired for row in range(rows)],
            reference_logps=known[:rows],
            kl_pairs=batch.kl_pairs,
            kl_rows=list(range(len(batch.kl_pairs))),
            kl_reference_logps=known[rows:],
        )

    def gradient(self, batch: StepBatch) -> StepResult:
        """Leaves the gradient of the step's mean loss."""
        return backward_step(self.policy, batch, self.settings)

    def step(self, batch: StepBatch) -> float:
        result = self.gradient(batch)
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return result.loss
