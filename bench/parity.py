"""Loss and LoRA gradients of our trainer against TRL's KTOTrainer and DPOTrainer on identical batches.

    make bench NAME=parity            (QUICK=1: under a minute)
    python -m bench.parity

Two small random models of different families, float32, adapters moved off zero. KTO sees TRL's own mismatched pairs, unequal
class weights, and batches on both sides of z0's clamp. TRL computes its reference itself, in every step; ours comes from the
cached pass. A row is the largest difference over the batches: of the loss in nats, and of all LoRA gradients together as
the norm of the difference over the norm of TRL's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report import CannotRunError, Row, main, row

if TYPE_CHECKING:
    import torch

WITHIN = 1e-4
WEIGHTS = (1.0, 1.4)
"""Desirable, undesirable."""
VOCAB = 512
CANDIDATES = 96
"""Random batches looked at to find enough on both sides of the clamp."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one batch."""

    loss: float
    """Nats."""
    gradient: float
    """Norm of the difference of all LoRA gradients, relative to the norm of TRL's."""


def measure(quick: bool) -> Sequence[Row]:
    from bench.trl_kto import require_trl

    require_trl()
    import torch

    torch.set_num_threads(1)
    wanted = 2 if quick else 8
    rows: list[Row] = []
    for family in ("Llama", "Qwen3"):
        print(family, file=sys.stderr, flush=True)
        rows += kto(family, wanted)
        rows += dpo(family, wanted)
    return rows


def kto(family: str, wanted: int) -> list[Row]:
    """So many batches with z0 above 0, and as many with z0 = 0."""
    from bench.training_model import Ours, bench_config, peft_config, random_batches, twin
    from bench.trl_kto import kto_examples, trl_kto
    from worker.alignment.reference import ReferenceCache

    config = bench_config(desirable_weight=WEIGHTS[0], undesirable_weight=WEIGHTS[1])
    base = random_model(family)
    theirs = twin(base)
    ours = Ours(base, config)
    found: dict[str, list[Difference]] = {"z0 > 0": [], "z0 = 0": []}
    with tempfile.TemporaryDirectory() as folder:
        cache = ReferenceCache(Path(folder), "00" * 32)
        lora = peft_config(config.lora)
        trl = trl_kto(theirs, lora, ours.adapters(), "defaults", folder=folder, beta=config.beta, weights=WEIGHTS)
        for batch in random_batches(CANDIDATES, VOCAB, scale=0.2):
            known = ours.reference(batch, cache)
            result = ours.gradient(ours.step_batch(batch, known))
            gradients = _taken(ours.policy.model)
            side = "z0 > 0" if result.kl is not None and result.kl.raw > 0 else "z0 = 0"
            if len(found[side]) == wanted:
                continue
            loss = float(trl.gradient(kto_examples(batch, known)))
            assert (trl.last["kl"] > 0) == (side == "z0 > 0"), "one side clamps z0 and the other does not"
            found[side].append(Difference(abs(result.loss - loss), _apart(gradients, _taken(trl.model))))
    for side, differences in found.items():
        if len(differences) < wanted:
            raise CannotRunError(f"of {CANDIDATES} random batches only {len(differences)} have {side}.")
    return [each for side, differences in found.items() for each in _rows(f"{family} KTO, {side}", differences)]


def dpo(family: str, wanted: int) -> list[Row]:
    from bench.training_model import Batch, Ours, bench_config, peft_config, random_batches, twin
    from bench.trl_kto import dpo_examples, trl_dpo
    from worker.alignment.dataset import Pair
    from worker.alignment.reference import ReferenceCache

    config = bench_config(objective="dpo")
    base = random_model(family)
    theirs = twin(base)
    ours = Ours(base, config)
    differences: list[Difference] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = ReferenceCache(Path(folder), "00" * 32)
        trl = trl_dpo(theirs, peft_config(config.lora), ours.adapters(), folder=folder, beta=config.beta)
        for unpaired in random_batches(wanted, VOCAB, scale=0.2):
            prompts = [unpaired.pairs[row - row % 2].prompt_ids for row in range(len(unpaired.pairs))]
            pairs = [Pair(prompt, pair.completion_ids) for prompt, pair in zip(prompts, unpaired.pairs, strict=True)]
            batch = Batch(pairs, [row % 2 == 0 for row in range(len(pairs))], [])
            result = ours.gradient(ours.step_batch(batch, ours.reference(batch, cache)))
            loss = float(trl.gradient(dpo_examples(batch)))
            gradients = _taken(ours.policy.model), _taken(trl.model)
            differences.append(Difference(abs(result.loss - loss), _apart(*gradients)))
    return _rows(f"{family} DPO", differences)


def random_model(family: str) -> Any:
    """Small, with grouped queries; Qwen3 normalises queries and keys, and ties its head to the embeddings."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from bench.training_model import Shape, random_llama

    shape = Shape(vocab=VOCAB, hidden=64, layers=3, heads=4, kv_heads=2, intermediate=176)
    if family == "Llama":
        return random_llama(shape)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=32,
        intermediate_size=shape.intermediate,
        max_position_embeddings=shape.max_length,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).requires_grad_(False).eval()


def _taken(model: Any) -> dict[str, torch.Tensor]:
    """The gradients by name, in float64; the model has none afterwards."""
    named = list(model.named_parameters())
    gradients = {name: parameter.grad.double() for name, parameter in named if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


def _apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys(), "the two sides train different tensors"
    difference = sum(float((ours[name] - theirs[name]).square().sum()) for name in theirs)
    return float((difference / sum(float(gradient.square().sum()) for gradient in theirs.values())) ** 0.5)


def _rows(name: str, differences: Sequence[Difference]) -> list[Row]:
    losses, gradients = [each.loss for each in differences], [each.gradient for each in differences]
    return [
        row(f"{name}: difference of loss", "nats", losses, value=max(losses), at_most=WITHIN),
        row(f"{name}: difference of gradients", "relative", gradients, value=max(gradients), at_most=WITHIN),
    ]


if __name__ == "__main__":
    sys.exit(main("parity", measure, packages=("torch", "transformers", "peft", "trl")))
