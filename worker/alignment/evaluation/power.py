"""What a test could have seen: the smallest change found with 80 % power, and how many clusters a change needs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.blocks import PromptBlock
from worker.alignment.evaluation.permutation import (
    LEVEL,
    NUM_PERMUTATIONS,
    Part,
    Relabelings,
    gated_part,
    num_labelings,
)
from worker.alignment.evaluation.significance import benjamini_hochberg
from worker.alignment.evaluation.student import t_quantile

Floats = NDArray[np.float64]

POWER = 0.80
_NORMAL_SUM = 1.959964 + 0.841621  # quantiles of 97.5 % and of 80 %


def detectable(values_C: Floats) -> float | None:
    """The change of a mean over clusters that is found with 80 % power at the two-sided 5 % level; None below 5 clusters."""
    num = len(values_C)
    if num < 5:
        return None
    error = float(values_C.std(ddof=1)) / math.sqrt(num)
    return float(t_quantile(0.975, num - 1) + t_quantile(POWER, num - 1)) * error


def clusters_for(change: float, standard_deviation: float) -> int:
    """Clusters whose mean shows ``change`` (not 0) with 80 % power, ``standard_deviation`` being one cluster's."""
    return math.ceil((_NORMAL_SUM * standard_deviation / abs(change)) ** 2)


def category_power(
    blocks: Sequence[PromptBlock], collapse_share: float = 0.5, seed: int = 0, *, num_simulated: int = 200
) -> float | None:
    """Probability that a collapsed category would be found here, with these prompts, samples and categories.

    Labels are first permuted within every prompt, so that nothing has changed; then one in ten categories collapses: each
    of its policy's samples is replaced by their mode with probability ``collapse_share``. The power is the share of
    collapsed categories with q < 0.05. None without a category that can be tested.
    """
    rng = np.random.default_rng(seed)
    parts: dict[str, list[Part]] = defaultdict(list)
    for block in blocks:
        if block.open_ended and (part := gated_part(block)) is not None:
            parts[block.category].append(_relabelled(part, rng))
    groups = [group for group in parts.values() if num_labelings(group) > 1 / LEVEL]
    if not groups:
        return None
    null_C = rng.random(len(groups))  # what the tests of the others would say
    num_planted = max(1, len(groups) // 10)
    found = simulated = 0
    while simulated < num_simulated:
        chosen = rng.choice(len(groups), size=num_planted, replace=False)
        p_C = null_C.copy()
        p_C[chosen] = _p_values(
            [[collapsed(part, collapse_share, rng) for part in groups[i]] for i in chosen], rng, len(groups)
        )
        q_C = np.array(benjamini_hochberg(p_C.tolist()))
        found += int((q_C[chosen] < LEVEL).sum())
        simulated += num_planted
    return found / simulated


def collapsed(part: Part, share: float, rng: np.random.Generator) -> Part:
    """The part with each of the policy's samples replaced, with probability ``share``, by the one most like the others."""
    size, cut = len(part.similarity_NN), part.num_reference
    own = part.similarity_NN[cut:, cut:]
    mode = cut + int(own.sum(1).argmax())
    source = np.arange(size)
    source[cut:][rng.random(size - cut) < share] = mode
    # similarity to oneself is 1, and so is that of two copies
    return Part(similarity_NN=part.similarity_NN[np.ix_(source, source)], num_reference=cut)


def _relabelled(part: Part, rng: np.random.Generator) -> Part:
    order = rng.permutation(len(part.similarity_NN))
    return Part(similarity_NN=part.similarity_NN[np.ix_(order, order)], num_reference=part.num_reference)


def _p_values(groups: Sequence[Sequence[Part]], rng: np.random.Generator, num_tests: int) -> Floats:
    relabelings = Relabelings([part for group in groups for part in group])
    ends = np.cumsum([len(group) for group in groups])
    spans = [range(end - len(group), end) for end, group in zip(ends.tolist(), groups, strict=True)]
    size = min(NUM_PERMUTATIONS, 100 * num_tests)  # enough to tell p from 0.05 / num_tests
    fine = num_tests > NUM_PERMUTATIONS / 100
    return np.array([relabelings.p_value(span, rng, size, fine=fine) for span in spans])
