"""The KTO loss as a pure function of per-completion log-probabilities (arXiv 2402.01306, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class KtoLoss:
    losses: Tensor
    """[B]: weight * (1 - sigmoid(sign * beta * (logratio - z0))), differentiable."""
    rewards: Tensor
    """[B]: beta * logratio, detached."""


@dataclass(frozen=True, slots=True)
class KlEstimate:
    """z0 of one optimizer step, pooled over all its mismatched pairs."""

    clamped: Tensor
    """max(0, mean), what the loss sees; no gradient."""
    raw: Tensor
    """The mean before the clamp."""
    standard_error: Tensor
    """Of the mean; NaN with fewer than two pairs."""


def kto_loss(
    policy_logps_B: Tensor,
    reference_logps_B: Tensor,
    labels_B: Tensor,
    z0: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> KtoLoss:
    """Equations 7 and 8 of the paper with a sign vector, so that a batch of one class needs no special case.

    ``labels_B`` is boolean (True = desirable), log-probs are sums over completion tokens in nats, ``z0`` is a scalar
    and carries no gradient. The caller divides the sum of ``losses`` by the rows of the whole optimizer step.
    """
    dtype = policy_logps_B.dtype
    signs_B = labels_B.to(dtype) * 2 - 1
    weights_B = torch.where(labels_B, desirable_weight, undesirable_weight).to(dtype)
    logratios_B = policy_logps_B - reference_logps_B
    losses_B = weights_B * torch.sigmoid(-signs_B * beta * (logratios_B - z0.detach()))  # 1 - sigmoid(x) = sigmoid(-x)
    return KtoLoss(losses=losses_B, rewards=beta * logratios_B.detach())


def pooled_kl(kl_logratios_M: Tensor) -> KlEstimate:
    """z0 over the M mismatched pairs of a whole optimizer step, clamped once after averaging; 0 where M = 0."""
    if kl_logratios_M.numel() == 0:
        zero = kl_logratios_M.new_zeros(())
        return KlEstimate(clamped=zero, raw=zero, standard_error=zero.new_full((), float("nan")))
    values_M = kl_logratios_M.detach()
    raw = values_M.mean()
    error = (
        values_M.std(correction=1) / values_M.numel() ** 0.5 if values_M.numel() > 1 else raw.new_full((), float("nan"))
    )
    return KlEstimate(clamped=raw.clamp(min=0), raw=raw, standard_error=error)
