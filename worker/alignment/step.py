"""One optimizer step's mathematics: z0 over the whole step, then the gradient microbatch by microbatch.

With several processes each takes a share of the step's rows, and knows the others' shares. What is found out about rows lies
in vectors as long as the whole batch, zero where another process computes: one sum completes them, in the order of one
process alone, whatever classes or however many rows a process has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.alignment.config import AlignmentConfig, KlScope
from worker.alignment.dataset import Pair
from worker.alignment.distributed import reduce_gradients
from worker.alignment.losses import KlEstimate, LossSettings, kl_sums, losses, pooled_kl
from worker.alignment.policy import Policy
from worker.alignment.reference import FloatArray
from worker.alignment.rounds import Cut, Round, rounds_of
from worker.alignment.scoring import to_device
from worker.alignment.sharding import IDLE
from worker.alignment.weights import ClassWeights, resolve_weights


@dataclass(frozen=True, slots=True, eq=False)
class StepBatch:
    """The rows of one optimizer step, with the reference's numbers beside them."""

    ids: list[int]
    pairs: list[Pair]
    labels: list[bool]
    units: list[int]
    """[B] the unit of each row: rows of one unit are neighbours and stay in one forward pass. A DPO unit is a desirable
    and an undesirable row in this order; for the other objectives each row is a unit."""
    reference_logps: FloatArray
    """[B]; zeros where the objective needs none."""
    kl_pairs: list[Pair]
    """[M] mismatched pairs: at most one per row, none where the objective needs none."""
    kl_rows: list[int]
    """[M] the row whose prompt the mismatched pair has."""
    kl_reference_logps: FloatArray

    @property
    def num_units(self) -> int:
        return len(set(self.units))

    @property
    def num_completion_tokens(self) -> int:
        return sum(len(pair.completion_ids) for pair in self.pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    loss: LossSettings
    token_budget: int
    kl_scope: KlScope = "step"

    @classmethod
    def of(cls, config: AlignmentConfig, weights: ClassWeights | None = None) -> StepSettings:
        """``weights`` as ``resolve_weights`` gives them; None: the config's own, 1 where it leaves them to the data."""
        weights = weights or resolve_weights(config, [True, False])
        loss = LossSettings(
            objective=config.objective,
            beta=config.beta,
            desirable_weight=weights.desirable,
            undesirable_weight=weights.undesirable,
        )
        return cls(loss=loss, token_budget=config.tokens_per_microbatch, kl_scope=config.kl_scope)


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    loss: float
    kl: KlEstimate | None
    """None where the objective has no z0."""
    logps: Tensor
    """[B], in the order of the batch, on the CPU."""
    rewards: Tensor | None
    """[B]; None for SFT."""
    accuracy: float | None
    """Share of DPO pairs whose desirable row has the higher reward."""
    bad_ids: list[int]
    """Rows whose log-prob was not finite."""


def backward_step(policy: Policy, batch: StepBatch, settings: StepSettings) -> StepResult:
    """Leave the gradient of the step's mean loss in the adapters' ``.grad`` (which must be empty).

    z0 is pooled over all mismatched pairs of the step and clamped once. When the step is one forward pass (in every
    process), the KL pass goes on from its keys and values; with several, z0 comes from a pass before. So loss and gradient
    do not depend on how the step is cut. Log-ratios and z0 are free of dropout: where adapters have some, the rows are
    scored without it first, and the noisy pass only carries the gradient. The host waits for the device once, at the end.

    All processes of ``policy.world`` are given the same batch, and end with the same gradient and result.
    """
    rounds = rounds_of(policy, batch, settings)
    run = _Run(policy, batch, settings, pooled_later=len(rounds) == 1 and settings.kl_scope == "step")
    if policy.dropout:
        run.score_first(rounds)
    elif settings.loss.needs_kl and settings.kl_scope == "step" and len(rounds) > 1:
        run.score_kl_first()
    for each in rounds:
        run.backward(each)
    reduce_gradients(policy.parameters(), policy.world)
    return run.result()


class _Run:
    """What one step has found out so far."""

    def __init__(self, policy: Policy, batch: StepBatch, settings: StepSettings, *, pooled_later: bool) -> None:
        self.policy, self.batch, self.settings = policy, batch, settings
        device = policy.device
        wide = torch.float64  # sums of a thousand nats: their difference deserves the digits
        self.labels_B = to_device(np.asarray(batch.labels, dtype=bool), device)
        self.reference_B = to_device(batch.reference_logps, device)
        self.kl_reference_M = to_device(batch.kl_reference_logps, device)
        self.logps_B = torch.zeros(len(batch.pairs), dtype=wide, device=device)
        self.rewards_B = torch.zeros_like(self.logps_B)
        self.kl_M = torch.zeros(len(batch.kl_pairs), dtype=wide, device=device)
        """Log-ratios of the mismatched pairs."""
        self.loss = torch.zeros((), dtype=wide, device=device)
        self.is_scored = self.has_kl = False
        self.pooled_later = pooled_later
        """z0 is that of the whole step, known once the only round has run forward."""
        sft = settings.loss.objective == "sft"
        self.denominator = float(batch.num_completion_tokens if sft else batch.num_units)

    def score_kl_first(self) -> None:
        scored_M = self.policy.score(self.batch.kl_pairs, token_budget=self.settings.token_budget)
        self.kl_M = scored_M.double() - self.kl_reference_M
        self.has_kl = True

    def score_first(self, rounds: Sequence[Round]) -> None:
        """Log-probs of rows and mismatched pairs without gradient or dropout."""
        with torch.no_grad():
            for each in rounds:
                if each.cut is None:
                    self.policy.idle(1)
                else:
                    self.logps_B[each.cut.rows] = self._forward(each.cut).double()
                self.policy.idle(each.kl_passes - each.own_kl_passes)
        if self.settings.kl_scope == "step":
            self.policy.world.add_up(self.kl_M)
        self.is_scored = self.has_kl = True

    def backward(self, each: Round) -> None:
        """Add the gradient of one round."""
        if self.is_scored:
            with self.policy.training_noise():
                self._backward_noisy(each.cut)
            return
        if each.cut is None:
            logps_B = self._idle_logps()
        else:
            logps_B = (self.policy.logps(each.cut.pairs) if self.has_kl else self._forward(each.cut)).double()
            self.logps_B[each.cut.rows] = logps_B.detach()
        if not self.has_kl:
            self.policy.idle(each.kl_passes - each.own_kl_passes)
            if self.pooled_later:
                self.policy.world.add_up(self.kl_M)
        total = self._losses(each.cut, logps_B) if each.cut is not None else logps_B.sum() * 0
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]

    def _backward_noisy(self, cut: Cut | None) -> None:
        """The gradient by log-probs with dropout, its factors by those without."""
        if cut is None:
            noisy_B = self._idle_logps()
            slopes_B = torch.zeros_like(noisy_B)
        else:
            noisy_B = self.policy.logps(cut.pairs).double()
            clean_B = self.logps_B[cut.rows].requires_grad_()
            (slopes_B,) = torch.autograd.grad(self._losses(cut, clean_B), clean_B)
        if noisy_B.requires_grad:
            (noisy_B * slopes_B).sum().backward()  # type: ignore[no-untyped-call]

    def _idle_logps(self) -> Tensor:
        """What stands for the log-probs of a process without rows: nothing, or a pass beside those that gather weights."""
        return self.policy.logps([IDLE]).double() if self.policy.sharded else torch.zeros(0)

    def result(self) -> StepResult:
        batch, loss = self.batch, self.settings.loss
        self._complete()
        logps_B = self.logps_B.cpu()
        rewards_B = self.rewards_B.cpu()
        wins_P = (rewards_B[0::2] > rewards_B[1::2]).double() if loss.objective == "dpo" else None
        return StepResult(
            loss=float(self.loss),
            kl=pooled_kl(kl_sums(self.kl_M)) if loss.needs_kl else None,
            logps=logps_B,
            rewards=rewards_B if loss.needs_reference else None,
            accuracy=None if wins_P is None else float(wins_P.mean()),
            bad_ids=[batch.ids[row] for row in self._bad_rows(logps_B)],
        )

    def _bad_rows(self, logps_B: Tensor) -> list[int]:
        """Rows whose log-prob is not finite. What rows share is computed with one of them, and its fault shows in all:
        they are asked again, sharing nothing.
        """
        rows = torch.nonzero(~torch.isfinite(logps_B)).flatten().tolist()
        if not rows or not self.policy.share:
            return rows
        self.policy.share = False
        try:
            pairs = [self.batch.pairs[row] for row in rows]
            again = self.policy.score(pairs, token_budget=self.settings.token_budget).cpu()
        finally:
            self.policy.share = True
        return [row for row, logp in zip(rows, again.tolist(), strict=True) if not math.isfinite(logp)] or rows

    def _complete(self) -> None:
        """Put together what the processes found, by one sum."""
        if self.policy.world.size == 1:
            return
        parts = [self.loss[None], self.logps_B, self.rewards_B]
        if self.settings.kl_scope == "microbatch":  # else it was needed, and put together, before the loss
            parts.append(self.kl_M)
        found = torch.split(self.policy.world.add_up(torch.cat(parts)), [len(part) for part in parts])
        self.loss, self.logps_B, self.rewards_B = found[0][0], found[1], found[2]
        self.kl_M = found[3] if len(found) > 3 else self.kl_M

    def _forward(self, cut: Cut) -> Tensor:
        """Log-probs of the cut's rows; those of its mismatched pairs are kept."""
        if not cut.kl_pairs:
            return self.policy.logps(cut.pairs)
        budget = self.settings.token_budget
        logps_B, kl_M = self.policy.logps_with_kl(cut.pairs, cut.kl_pairs, cut.kl_rows, token_budget=budget)
        self.kl_M[cut.kl_places] = kl_M.double() - self.kl_reference_M[cut.kl_places]
        return logps_B

    def _losses(self, cut: Cut, logps_B: Tensor) -> Tensor:
        scope = self.kl_M[cut.kl_places] if self.settings.kl_scope == "microbatch" else self.kl_M
        found = losses(
            self.settings.loss,
            logps_B,
            self.reference_B[cut.rows],
            self.labels_B[cut.rows],
            pooled_kl(kl_sums(scope)).clamped,
            denominator=self.denominator,
        )
        self.loss += found.total.detach()
        self.rewards_B[cut.rows] = found.rewards
        return found.total


def step_metrics(result: StepResult, labels: Sequence[bool]) -> dict[str, float]:
    """The step's metrics under TRL's keys; a class that is absent has none."""
    metrics = {"loss": result.loss}
    if result.kl is not None:
        metrics["kl"] = float(result.kl.clamped)
        metrics["kl/raw"] = float(result.kl.raw)
        metrics["kl/standard_error"] = float(result.kl.standard_error)
    labels_B = torch.tensor(labels)
    for name, chosen_B in (("chosen", labels_B), ("rejected", ~labels_B)):
        if bool(chosen_B.any()):
            metrics[f"logps/{name}"] = float(result.logps[chosen_B].mean())
            if result.rewards is not None:
                metrics[f"rewards/{name}"] = float(result.rewards[chosen_B].mean())
    if "rewards/chosen" in metrics and "rewards/rejected" in metrics:
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    if result.accuracy is not None:
        metrics["rewards/accuracies"] = result.accuracy
    return metrics
