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
    """Equation by equation from the paper; ``weights`` = (desirable, undesirable). Without mismatched pairs: z0 = 0."""
    with torch.no_grad():
        with model.disable_adapter():
            reference = torch.stack([of_pair(model, pair) for pair in pairs])
            kl_reference = [of_pair(model, pair) for pair in kl_pairs]
        kl_policy = [of_pair(model, pair) for pair in kl_pairs]
    kl = torch.stack([a - b for a, b in zip(kl_policy, kl_reference, strict=True)] or [torch.zeros(()).double()])
    z0 = torch.clamp(kl.mean(), min=0)
    policy = torch.stack([of_pair(model, pair) for pair in pairs])
    loss = torch.zeros((), dtype=torch.float64)
    for logp, base, label in zip(policy, reference, labels, strict=True):
        if label:
            loss = loss + weights[0] * (1 - torch.sigmoid(beta * (logp - base - z0)))
        else:
            loss = loss + weights[1] * (1 - torch.sigmoid(beta * (z0 - (logp - base))))
    loss = loss / len(pairs)
    return NaiveStep(policy.detach(), reference, kl, z0, loss.detach(), _gradients(model, loss))


def dpo_step(model: Any, chosen: list[Pair], rejected: list[Pair], beta: float) -> NaiveStep:
    """Equation 7 of arXiv 2305.18290. ``policy`` and ``reference`` alternate chosen and rejected."""
    pairs = [pair for both in zip(chosen, rejected, strict=True) for pair in both]
    with torch.no_grad(), model.disable_adapter():
        reference = torch.stack([of_pair(model, pair) for pair in pairs])
    policy = torch.stack([of_pair(model, pair) for pair in pairs])
    loss = torch.zeros((), dtype=torch.float64)
    for k in range(len(chosen)):
        better, worse = policy[2 * k] - reference[2 * k], policy[2 * k + 1] - reference[2 * k + 1]
        loss = loss - torch.log(torch.sigmoid(beta * better - beta * worse))
    loss = loss / len(chosen)
    zero = torch.zeros((), dtype=torch.float64)
    return NaiveStep(policy.detach(), reference, zero, zero, loss.detach(), _gradients(model, loss))


def sft_step(model: Any, pairs: list[Pair]) -> NaiveStep:
    """Mean negative log-likelihood of a completion token."""
    policy = torch.stack([of_pair(model, pair) for pair in pairs])
    loss = -policy.sum() / sum(len(pair.completion_ids) for pair in pairs)
    zero = torch.zeros((), dtype=torch.float64)
    return NaiveStep(policy.detach(), policy.detach(), zero, zero, loss.detach(), _gradients(model, loss))


def _gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads
