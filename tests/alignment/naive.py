"""An independent, slow witness of the KTO step: one row at a time, the model's own eager forward, float64 throughout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from worker.alignment.dataset import Pair


@dataclass
class NaiveStep:
    policy: torch.Tensor
    reference: torch.Tensor
    kl: torch.Tensor
    z0: torch.Tensor
    loss: torch.Tensor
    grads: dict[str, torch.Tensor]


def row_logp(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt + completion])
    logits = model(input_ids=ids).logits[0].double()
    probabilities = torch.softmax(logits, dim=-1)
    total = torch.zeros((), dtype=torch.float64)
    for place in range(len(prompt), len(prompt) + len(completion)):
        total = total + torch.log(probabilities[place - 1, ids[0, place]])
    return total


def of_pair(model: Any, pair: Pair) -> torch.Tensor:
    return row_logp(model, pair.prompt_ids.tolist(), pair.completion_ids.tolist())


def kto_step(
    model: Any, pairs: list[Pair], labels: list[bool], kl_pairs: list[Pair], beta: float, weights: tuple[float, float]
) -> NaiveStep:
    """Equation by equation from the paper; ``weights`` = (desirable, undesirable)."""
    with torch.no_grad():
        with model.disable_adapter():
            reference = torch.stack([of_pair(model, pair) for pair in pairs])
            kl_reference = torch.stack([of_pair(model, pair) for pair in kl_pairs])
        kl = torch.stack([of_pair(model, pair) for pair in kl_pairs]) - kl_reference
    z0 = torch.clamp(kl.mean(), min=0)
    policy = torch.stack([of_pair(model, pair) for pair in pairs])
    loss = torch.zeros((), dtype=torch.float64)
    for logp, base, label in zip(policy, reference, labels, strict=True):
        if label:
            loss = loss + weights[0] * (1 - torch.sigmoid(beta * (logp - base - z0)))
        else:
            loss = loss + weights[1] * (1 - torch.sigmoid(beta * (z0 - (logp - base))))
    loss = loss / len(pairs)
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return NaiveStep(policy.detach(), reference, kl, z0, loss.detach(), grads)
