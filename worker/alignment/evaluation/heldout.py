"""Held-out rewards: does the policy's implied reward tell desirable from undesirable completions it was not trained on?

reward = beta * (policy_logps - reference_logps). AUC does not depend on beta. Intervals resample conversation roots, so
that all rows of a prompt, and all prompts of a conversation, stay together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.intervals import auc_estimate, mean_estimate
from worker.alignment.evaluation.stats import Floats, auc, cluster_index
from worker.alignment.events import Estimate, HeldoutResult


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutRows:
    """The dev split under one checkpoint; every array but the last two is [N]."""

    labels: NDArray[np.bool_]
    logratios: Floats
    lengths: NDArray[np.int64]
    """Tokens of the completion."""
    prompt_keys: NDArray[Any]
    roots: NDArray[Any]
    """Conversation roots: the clusters."""
    kl_logratios: Floats
    """[M] logratios of mismatched pairs."""
    kl_roots: NDArray[Any]
    """[M] conversation roots of their prompts."""


def heldout_result(rows: HeldoutRows, beta: float) -> HeldoutResult:
    """All held-out figures of one checkpoint."""
    rewards = beta * rows.logratios
    right = (np.sign(np.where(rows.labels, rewards, -rewards)) + 1) / 2  # a reward of 0 is half right
    return HeldoutResult(
        num_desirable=int(rows.labels.sum()),
        num_undesirable=int((~rows.labels).sum()),
        accuracy=mean_estimate(right, rows.roots, share=True),
        auc=auc_estimate(rewards, rows.labels, rows.roots),
        auc_within_prompt=_auc_within_prompt(rewards, rows),
        auc_length=auc_estimate(rows.lengths.astype(np.float64), rows.labels, rows.roots),
        kl=mean_estimate(rows.kl_logratios, rows.kl_roots),
        reward_desirable=_class_mean(rewards, rows.labels),
        reward_undesirable=_class_mean(rewards, ~rows.labels),
    )


def _auc_within_prompt(rewards_N: Floats, rows: HeldoutRows) -> Estimate:
    """Mean AUC over the prompts that carry both labels, each prompt once; ``n`` is their number."""
    prompts_N, num_prompts = cluster_index(rows.prompt_keys)
    order = np.argsort(prompts_N, kind="stable")
    bounds = np.searchsorted(prompts_N[order], np.arange(num_prompts + 1))
    values, roots = [], []
    for start, end in pairwise(bounds):
        part = order[start:end]
        value = auc(rewards_N[part], rows.labels[part])
        if value is not None:
            values.append(value)
            roots.append(rows.roots[part[0]])
    return mean_estimate(np.array(values, dtype=np.float64), np.array(roots, dtype=object), share=True)


def _class_mean(rewards_N: Floats, chosen_N: NDArray[np.bool_]) -> float | None:
    return float(rewards_N[chosen_N].mean()) if chosen_N.any() else None
