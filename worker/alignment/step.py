"""One optimizer step's mathematics: z0 over the whole step, then the gradient microbatch by microbatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.alignment.batching import microbatches
from worker.alignment.config import AlignmentConfig
from worker.alignment.dataset import Pair
from worker.alignment.losses import KlEstimate, kto_loss, pooled_kl
from worker.alignment.policy import Policy
from worker.alignment.reference import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class StepBatch:
    """The rows of one optimizer step, with the reference's numbers beside them."""

    ids: list[int]
    pairs: list[Pair]
    labels: list[bool]
    reference_logps: FloatArray
    kl_pairs: list[Pair]
    """Mismatched pairs: at most one per row."""
    kl_reference_logps: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    loss: float
    kl: KlEstimate
    logps: Tensor
    """[B], in the order of the batch, on the CPU."""
    rewards: Tensor
    bad_ids: list[int]
    """Rows whose log-prob was not finite."""


def score_all(policy: Policy, pairs: Sequence[Pair], token_budget: int) -> Tensor:
    """Summed log-probs of any number of pairs without gradient, [len(pairs)] on the policy's device."""
    values = torch.zeros(len(pairs), device=policy.device, dtype=torch.promote_types(policy.dtype, torch.float32))
    with torch.no_grad():
        for cut in cuts_of(policy, pairs, token_budget):
            values[torch.from_numpy(cut).to(policy.device)] = policy.logps([pairs[index] for index in cut])
    return values


def cuts_of(
    policy: Policy, pairs: Sequence[Pair], token_budget: int
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    lengths = [len(pair.prompt_ids) + len(pair.completion_ids) for pair in pairs]
    return microbatches(lengths, token_budget=token_budget, padded=policy.path != "packed")


def backward_step(policy: Policy, batch: StepBatch, config: AlignmentConfig) -> StepResult:
    """Leave the gradient of the step's mean loss in the adapters' ``.grad`` (which must be empty).

    z0 comes from a pass without gradient or dropout over all mismatched pairs of the step, pooled and clamped once; so
    loss and gradient do not depend on how the step is cut. The host waits for the device once, at the end.
    """
    budget = config.tokens_per_microbatch
    kl_reference = torch.from_numpy(batch.kl_reference_logps).to(policy.device)
    kl = pooled_kl(score_all(policy, batch.kl_pairs, budget).double() - kl_reference)
    labels_B = torch.tensor(batch.labels, device=policy.device)
    reference_B = torch.from_numpy(batch.reference_logps).to(policy.device)
    order: list[int] = []
    logps: list[Tensor] = []
    losses: list[Tensor] = []
    rewards: list[Tensor] = []
    for cut in cuts_of(policy, batch.pairs, budget):
        cut_B = torch.from_numpy(cut).to(policy.device)
        with policy.training_noise():
            policy_B = policy.logps([batch.pairs[index] for index in cut])
        result = kto_loss(
            policy_B.double(),  # sums of a thousand nats: their difference deserves the digits
            reference_B[cut_B],
            labels_B[cut_B],
            kl.clamped,
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        )
        (result.losses.sum() / len(batch.pairs)).backward()  # type: ignore[no-untyped-call]
        order.extend(cut.tolist())
        logps.append(policy_B.detach())
        losses.append(result.losses.detach())
        rewards.append(result.rewards)
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(order))
    logps_B, rewards_B = torch.cat(logps).cpu()[back], torch.cat(rewards).cpu()[back]
    bad = [batch.ids[index] for index in torch.nonzero(~torch.isfinite(logps_B)).flatten().tolist()]
    return StepResult(float(torch.cat(losses).sum()) / len(batch.pairs), kl, logps_B, rewards_B, bad)


def step_metrics(result: StepResult, labels: Sequence[bool]) -> dict[str, float]:
    """The step's metrics under TRL's keys; a class that is absent has none."""
    metrics = {
        "loss": result.loss,
        "kl": float(result.kl.clamped),
        "kl/raw": float(result.kl.raw),
        "kl/standard_error": float(result.kl.standard_error),
    }
    labels_B = torch.tensor(labels)
    for name, chosen_B in (("chosen", labels_B), ("rejected", ~labels_B)):
        if bool(chosen_B.any()):
            metrics[f"rewards/{name}"] = float(result.rewards[chosen_B].mean())
            metrics[f"logps/{name}"] = float(result.logps[chosen_B].mean())
    if "rewards/chosen" in metrics and "rewards/rejected" in metrics:
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    return metrics
