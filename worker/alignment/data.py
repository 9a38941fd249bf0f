"""What a run trains and evaluates on: tokenised splits, KL partners, and the reference's numbers for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worker.alignment.dataset import Encoder, Pair, Row
from worker.alignment.errors import DivergedError, ModelError
from worker.alignment.partners import kl_partners, mismatched_pair
from worker.alignment.policy import Policy
from worker.alignment.reference import FloatArray, ReferenceCache, ReferenceLogps, reference_logps
from worker.alignment.step import StepBatch, score_all

if TYPE_CHECKING:
    from worker.alignment.evaluation.screen import HeldoutRows, PromptCase


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSplit:
    """Rows with their mismatched pairs and the reference's log-probs of both."""

    rows: list[Row]
    logps: FloatArray
    """[N]"""
    kl_places: dict[int, int]
    """Row -> its place among the mismatched pairs; rows without a partner are absent."""
    kl_pairs: list[Pair]
    """[M]"""
    kl_logps: FloatArray
    """[M]"""

    def batch(self, indices: Sequence[int]) -> StepBatch:
        kl = [self.kl_places[index] for index in indices if index in self.kl_places]
        return StepBatch(
            ids=[self.rows[index].id for index in indices],
            pairs=[self.rows[index].pair for index in indices],
            labels=[self.rows[index].label for index in indices],
            reference_logps=self.logps[list(indices)],
            kl_pairs=[self.kl_pairs[place] for place in kl],
            kl_reference_logps=self.kl_logps[kl],
        )


def score_reference(
    policy: Policy,
    splits: Sequence[list[Row]],
    cache: ReferenceCache,
    *,
    max_length: int,
    token_budget: int,
    on_progress: Callable[[int, int], None],
) -> tuple[list[ScoredSplit], ReferenceLogps]:
    """Reference log-probs of every row and mismatched pair, cached. Partners stay within their split.

    Raises ModelError where the base model itself gives a log-prob that is not finite.
    """
    prepared: list[tuple[list[Row], list[int], list[Pair]]] = []
    for rows in splits:
        partners = list(enumerate(kl_partners(rows)))
        index = [row for row, partner in partners if partner is not None]
        pairs = [
            mismatched_pair(rows[row], rows[partner], max_length=max_length)
            for row, partner in partners
            if partner is not None
        ]
        prepared.append((rows, index, pairs))
    everything = [pair for rows, _, pairs in prepared for pair in [*(row.pair for row in rows), *pairs]]
    with policy.as_reference():
        result = reference_logps(
            everything,
            cache,
            policy.logps,
            token_budget=token_budget,
            dtype=policy.dtype,
            padded=policy.path != "packed",
            on_progress=on_progress,
        )
    if not np.isfinite(result.logps).all():
        raise ModelError("The base model gives log-probabilities that are not finite; try precision float32.")
    scored: list[ScoredSplit] = []
    start = 0
    for rows, index, pairs in prepared:
        middle, end = start + len(rows), start + len(rows) + len(pairs)
        places = {row: place for place, row in enumerate(index)}
        scored.append(ScoredSplit(rows, result.logps[start:middle], places, pairs, result.logps[middle:end]))
        start = end
    return scored, result


def prompt_cases(rows: Sequence[Row], encoder: Encoder) -> list[PromptCase]:
    """The distinct prompts that have a category, in the order of the rows, cut to max_length as in training."""
    from worker.alignment.evaluation.screen import PromptCase

    distinct = {row.prompt_key: row for row in reversed(rows) if row.category}
    return [
        PromptCase(category=row.category, messages=row.messages, token_ids=tuple(token_ids))
        for row in reversed(distinct.values())
        if row.category and (token_ids := encoder.sampling_ids(row.messages))
    ]


def heldout_rows(policy: Policy, split: ScoredSplit, *, token_budget: int) -> HeldoutRows:
    """Log-ratios of a split and of its mismatched pairs under the policy as it stands.

    Raises DivergedError where one is not finite: no figure of such a policy means anything.
    """
    from worker.alignment.evaluation.screen import HeldoutRows

    logps = score_all(policy, [row.pair for row in split.rows], token_budget).double().cpu().numpy()
    kl_logps = score_all(policy, split.kl_pairs, token_budget).double().cpu().numpy()
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
