"""What a run trains and evaluates on: tokenised splits, KL partners, and the reference's numbers for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worker.alignment.dataset import Pair, Row
from worker.alignment.errors import DivergedError, ModelError
from worker.alignment.partners import kl_partners, mismatched_pair
from worker.alignment.policy import Policy
from worker.alignment.reference import FloatArray, ReferenceCache, ReferenceLogps, reference_logps
from worker.alignment.step import StepBatch

if TYPE_CHECKING:
    from worker.alignment.evaluation.screen import HeldoutRows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplitToScore:
    rows: list[Row]
    units: list[tuple[int, ...]]
    """Places of the rows that belong together; see ``units.form_units``."""
    reference: bool = True
    """Whether the reference's log-probs of the rows are needed."""
    kl: bool = True
    """Whether the mismatched pairs are."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSplit:
    """Rows with their mismatched pairs and the reference's log-probs of both."""

    rows: list[Row]
    units: list[tuple[int, ...]]
    logps: FloatArray
    """[N]; zeros where they are not needed."""
    kl_places: dict[int, int]
    """Row -> its place among the mismatched pairs; rows without a partner are absent."""
    kl_pairs: list[Pair]
    """[M]"""
    kl_logps: FloatArray
    """[M]"""

    def batch(self, units: Sequence[int]) -> StepBatch:
        """The step of these units."""
        indices = [index for unit in units for index in self.units[unit]]
        with_kl = [(row, self.kl_places[index]) for row, index in enumerate(indices) if index in self.kl_places]
        return StepBatch(
            ids=[self.rows[index].id for index in indices],
            pairs=[self.rows[index].pair for index in indices],
            labels=[self.rows[index].label for index in indices],
            units=[number for number, unit in enumerate(units) for _ in self.units[unit]],
            reference_logps=self.logps[indices],
            kl_pairs=[self.kl_pairs[place] for _, place in with_kl],
            kl_rows=[row for row, _ in with_kl],
            kl_reference_logps=self.kl_logps[[place for _, place in with_kl]],
        )


def score_reference(
    policy: Policy,
    splits: Sequence[SplitToScore],
    cache: ReferenceCache,
    *,
    max_length: int,
    token_budget: int,
    on_progress: Callable[[int, int], None],
) -> tuple[list[ScoredSplit], ReferenceLogps]:
    """Reference log-probs of every row and mismatched pair, cached. Partners stay within their split.

    Raises ModelError where the base model itself gives a log-prob that is not finite.
    """
    prepared = [(split, *_mismatched(split, max_length)) for split in splits]
    own = [[row.pair for row in split.rows] if split.reference else [] for split in splits]
    everything = [pair for first, (_, _, pairs) in zip(own, prepared, strict=True) for pair in [*first, *pairs]]
    with policy.as_reference():
        result = reference_logps(
            everything,
            cache,
            policy.logps,
            cuts=lambda pairs: policy.cuts(pairs, token_budget=token_budget),
            dtype=policy.dtype,
            on_progress=on_progress,
            world=policy.world,
            idle=policy.idle,
        )
    if not np.isfinite(result.logps).all():
        raise ModelError("The base model gives log-probabilities that are not finite; try precision float32.")
    scored: list[ScoredSplit] = []
    start = 0
    for first, (split, index, pairs) in zip(own, prepared, strict=True):
        middle, end = start + len(first), start + len(first) + len(pairs)
        places = {row: place for place, row in enumerate(index)}
        logps = result.logps[start:middle] if split.reference else np.zeros(len(split.rows))
        scored.append(ScoredSplit(split.rows, split.units, logps, places, pairs, result.logps[middle:end]))
        start = end
    return scored, result


def without_reference(split: SplitToScore, *, max_length: int) -> ScoredSplit:
    """For steps of which only the cost matters: all reference log-probs are 0."""
    index, pairs = _mismatched(split, max_length)
    places = {row: place for place, row in enumerate(index)}
    return ScoredSplit(split.rows, split.units, np.zeros(len(split.rows)), places, pairs, np.zeros(len(pairs)))


def _mismatched(split: SplitToScore, max_length: int) -> tuple[list[int], list[Pair]]:
    """The rows that have a mismatched pair, and the pairs."""
    rows = split.rows
    partners = list(enumerate(kl_partners(rows))) if split.kl else []
    found = [(row, partner) for row, partner in partners if partner is not None]
    pairs = [mismatched_pair(rows[row], rows[partner], max_length=max_length) for row, partner in found]
    return [row for row, _ in found], pairs


def heldout_rows(policy: Policy, split: ScoredSplit, *, token_budget: int) -> HeldoutRows:
    """Log-ratios of a split and of its mismatched pairs under the policy as it stands.

    Raises DivergedError where one is not finite: no figure of such a policy means anything.
    """
    from worker.alignment.evaluation.screen import HeldoutRows

    logps = policy.score([row.pair for row in split.rows], token_budget=token_budget).double().cpu().numpy()
    kl_logps = policy.score(split.kl_pairs, token_budget=token_budget).double().cpu().numpy()
    bad = [row.id for row, logp in zip(split.rows, logps, strict=True) if not np.isfinite(logp)]
    if bad or not np.isfinite(kl_logps).all():
        rows = f" (rows {bad[:10]})" if bad else ""
        raise DivergedError(f"Held-out log-probs are not finite{rows}; lower the learning rate or raise beta.")
    return HeldoutRows(
        labels=np.asarray([row.label for row in split.rows], dtype=bool),
        logratios=logps - split.logps,
        lengths=np.asarray([len(row.pair.completion_ids) for row in split.rows], dtype=np.int64),
        prompt_keys=np.asarray([row.prompt_key for row in split.rows], dtype=object),
        roots=np.asarray([row.root for row in split.rows], dtype=object),
        kl_logratios=kl_logps - split.kl_logps,
        kl_roots=np.asarray([split.rows[index].root for index in split.kl_places], dtype=object),
    )
