"""Losses as pure functions of per-completion log-probabilities.

KTO: arXiv 2402.01306, section 4. APO-zero-unpaired: arXiv 2408.06266, the same with z0 = 0. DPO: arXiv 2305.18290. SFT: the
negative log-likelihood of the desirable completions, averaged over their tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from worker.alignment.config import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    objective: Objective = "kto"
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    @property
    def needs_kl(self) -> bool:
        return self.objective == "kto"

    @property
    def needs_reference(self) -> bool:
        return self.objective != "sft"


@dataclass(frozen=True, slots=True)
class Losses:
    total: Tensor
    """Scalar: the rows' share of the step's mean loss, differentiable."""
    rewards: Tensor
    """[B]: beta * logratio, detached; what SFT has no use for."""


@dataclass(frozen=True, slots=True)
class KlEstimate:
    """z0 of one optimizer step, pooled over all its mismatched pairs."""

    clamped: Tensor
    """max(0, mean), what the loss sees; no gradient."""
    raw: Tensor
    """The mean before the clamp."""
    standard_error: Tensor
    """Of the mean; NaN with fewer than two pairs."""


def losses(
    settings: LossSettings,
    policy_logps_B: Tensor,
    reference_logps_B: Tensor,
    labels_B: Tensor,
    z0: Tensor,
    *,
    denominator: float,
) -> Losses:
    """The rows' share of a step's mean loss, by the objective.

    ``labels_B`` is boolean (True = desirable), log-probs are sums over completion tokens in nats, ``z0`` a scalar that
    carries no gradient. ``denominator`` is of the whole optimizer step: its units (rows, or pairs for DPO), or for SFT its
    completion tokens. DPO rows alternate: the desirable row of a pair, then its undesirable one.
    """
    logratios_B = policy_logps_B - reference_logps_B
    match settings.objective:
        case "kto":
            terms = kto_terms(settings, logratios_B, labels_B, z0)
        case "apo_zero_unpaired":
            terms = kto_terms(settings, logratios_B, labels_B, torch.zeros_like(z0))
        case "dpo":
            terms = -functional.logsigmoid(settings.beta * (logratios_B[0::2] - logratios_B[1::2]))
        case "sft":
            terms = -policy_logps_B
    return Losses(terms.sum() / denominator, settings.beta * logratios_B.detach())


def kto_terms(settings: LossSettings, logratios_B: Tensor, labels_B: Tensor, z0: Tensor) -> Tensor:
    """Terms weight * (1 - sigmoid(sign * beta * (logratio - z0))), [B]: equations 7 and 8 of the paper.

    With a sign vector, so that a batch of one class needs no special case.
    """
    signs_B = labels_B.to(logratios_B.dtype) * 2 - 1
    weights_B = torch.where(labels_B, settings.desirable_weight, settings.undesirable_weight).to(logratios_B.dtype)
    # 1 - sigmoid(x) = sigmoid(-x)
    return weights_B * torch.sigmoid(-signs_B * settings.beta * (logratios_B - z0.detach()))


def kl_sums(kl_logratios_M: Tensor) -> Tensor:
    """[3]: sum, sum of squares and count, in float64: what ranks add up before one mean is taken."""
    values_M = kl_logratios_M.detach().double()
    count = torch.full((), values_M.numel(), dtype=torch.float64, device=values_M.device)
    return torch.stack([values_M.sum(), (values_M * values_M).sum(), count])


def pooled_kl(sums_3: Tensor) -> KlEstimate:
    """z0 over all the mismatched pairs of a step, clamped once after averaging; 0 where there is none."""
    total, squares, count = sums_3.unbind()
    raw = total / count.clamp(min=1)
    variance = (squares - count * raw * raw).clamp(min=0) / (count - 1)  # 0 / 0 is NaN with one pair
    error = torch.where(count > 1, (variance / count.clamp(min=1)).sqrt(), float("nan"))
    return KlEstimate(clamped=raw.clamp(min=0), raw=raw, standard_error=error)
