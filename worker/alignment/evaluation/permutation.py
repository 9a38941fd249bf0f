"""The label permutation inside each prompt: what S_policy - S_reference could have been, had the labels meant nothing.

S is the mean pairwise similarity of an arm's samples. Labels are permuted inside every prompt independently of the other
prompts: one permutation shared by a category's prompts would leave its test with only C(2K, K) different values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.blocks import PromptBlock
from worker.alignment.evaluation.significance import TOLERANCE

Floats = NDArray[np.float64]

NUM_PERMUTATIONS = 10_000
LEVEL = 0.05
MAX_LABELINGS = 12_870
"""C(16, 8): up to K = 8 all labelings are taken; above, as many are drawn."""
FINE_FACTOR = 20
"""How many more permutations a small p gets: p cannot be below 1 / (B + 1), and 661 categories need 8e-5 for one alone."""
_FINE_BELOW = 0.005
_CELLS = 16_000_000  # float64 held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One prompt's part of a test: the similarities of its gated samples, the reference's first."""

    similarity_NN: Floats
    num_reference: int


def gated_part(block: PromptBlock) -> Part | None:
    """The block's passing samples; None where an arm keeps fewer than two."""
    kept = np.flatnonzero(block.passes_N)
    num_reference = int((kept < block.num_reference).sum())
    if num_reference < 2 or len(kept) - num_reference < 2:
        return None
    return Part(similarity_NN=block.similarity_NN[np.ix_(kept, kept)], num_reference=num_reference)


def difference(part: Part) -> float:
    """S_policy - S_reference; each arm has at least two samples."""
    reference, policy = arm_means(part)
    return policy - reference


def arm_means(part: Part) -> tuple[float, float]:
    """Mean pairwise similarity of the reference's samples and of the policy's."""
    cut = part.num_reference
    return _off_diagonal_mean(part.similarity_NN[:cut, :cut]), _off_diagonal_mean(part.similarity_NN[cut:, cut:])


def num_labelings(parts: Sequence[Part]) -> int:
    """How many values the parts' sum can take under permutation: 1 / this is the smallest p that can be reached."""
    total = 1
    for part in parts:
        total *= comb(len(part.similarity_NN), part.num_reference)
    return total


class Relabelings:
    """S_policy - S_reference of every prompt under every labeling: computed once, drawn from often."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.observed_P: Floats = np.array([difference(part) for part in parts], dtype=np.float64)
        self.values: list[Floats] = [np.empty(0)] * len(parts)
        shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, part in enumerate(parts):
            shapes[part.num_reference, len(part.similarity_NN) - part.num_reference].append(index)
        for (num_reference, num_policy), members in shapes.items():
            for some in _chunks(members, _CELLS // MAX_LABELINGS):
                stack_BNN = np.stack([parts[index].similarity_NN for index in some])
                for index, values in zip(some, _all_values(stack_BNN, num_reference, num_policy), strict=True):
                    self.values[index] = values

    def draw(self, index: int, rng: np.random.Generator, size: int) -> Floats:
        """``size`` values of one prompt under independent random labelings."""
        values = self.values[index]
        drawn: Floats = values[rng.integers(0, len(values), size=size, dtype=np.uint16)]
        return drawn

    def p_value(
        self, members: Sequence[int], rng: np.random.Generator, num_permutations: int, *, fine: bool = True
    ) -> float:
        """One-sided p of the members' summed difference: (1 + #{T* >= T}) / (B + 1).

        With ``fine`` a small p is found again with FINE_FACTOR times as many permutations, all of them new.
        """
        total = float(self.observed_P[list(members)].sum())
        p = self._share_above(members, total, rng, num_permutations)
        if fine and p < _FINE_BELOW:
            p = self._share_above(members, total, rng, FINE_FACTOR * num_permutations)
        return p

    def _share_above(self, members: Sequence[int], total: float, rng: np.random.Generator, size: int) -> float:
        sums = np.zeros(size)
        for index in members:
            sums += self.draw(index, rng, size)
        return (1 + int((sums >= total - TOLERANCE).sum())) / (size + 1)


def _all_values(stack_BNN: Floats, num_reference: int, num_policy: int) -> Floats:
    """S_policy - S_reference of B prompts under all labelings, [B, labelings]."""
    policy_LN = _labelings(num_reference, num_policy)
    size = num_reference + num_policy
    upper = np.triu_indices(size, 1)
    pairs_BE = stack_BNN[:, upper[0], upper[1]]
    weights_LE = _pair_weights(num_reference, num_policy, policy_LN, upper)
    values: Floats = pairs_BE @ weights_LE.T
    return values


def _pair_weights(
    num_reference: int, num_policy: int, policy_LN: Floats, upper: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> Floats:
    """What each pair of samples counts under each labeling: + in the policy's mean, - in the reference's, 0 across."""
    left_LE, right_LE = policy_LN[:, upper[0]], policy_LN[:, upper[1]]
    weights: Floats = left_LE * right_LE / comb(num_policy, 2) - (1 - left_LE) * (1 - right_LE) / comb(num_reference, 2)
    return weights


@lru_cache(maxsize=128)
def _labelings(num_reference: int, num_policy: int) -> Floats:
    """Rows with 1 for a policy sample: every one, or MAX_LABELINGS random ones where there are more."""
    size = num_reference + num_policy
    if comb(size, num_policy) <= MAX_LABELINGS:
        chosen = np.array(list(combinations(range(size), num_policy)))
    else:
        rng = np.random.default_rng([num_reference, num_policy])
        chosen = rng.random((MAX_LABELINGS, size)).argsort(1)[:, :num_policy]
    rows = np.zeros((len(chosen), size))
    np.put_along_axis(rows, chosen, 1.0, axis=1)
    return rows


def _off_diagonal_mean(matrix: Floats) -> float:
    size = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (size * (size - 1)))


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
