"""Exact and permutation tests, and corrections for many of them. All p-values are two-sided unless a name says otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TOLERANCE = 1e-7
"""Two statistics closer than this are a tie: sums of the same numbers in another order differ in their last bits."""


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """q-values: the smallest false discovery rate at which each is rejected (Benjamini and Hochberg 1995)."""
    p_C = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_C, kind="stable")
    scaled = p_C[order] * len(p_C) / np.arange(1, len(p_C) + 1)
    q_C = np.empty(len(p_C))
    q_C[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return [float(q) for q in q_C]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the chance of any false rejection (Holm 1979)."""
    p_C = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_C, kind="stable")
    adjusted = np.empty(len(p_C))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_C[order] * np.arange(len(p_C), 0, -1)))
    return [float(p) for p in adjusted]


def exact_sign_test(num_up: int, num_down: int) -> float:
    """Ties are left out beforehand; 1 without any decisive one."""
    total, less = num_up + num_down, min(num_up, num_down)
    tail = sum(math.comb(total, k) for k in range(less + 1))
    return min(1.0, tail / 2 ** (total - 1)) if total else 1.0


def mcnemar_exact(before_N: NDArray[np.bool_], after_N: NDArray[np.bool_]) -> float:
    """Whether paired verdicts changed more often one way than the other (McNemar 1947, exact binomial)."""
    return exact_sign_test(int((after_N & ~before_N).sum()), int((before_N & ~after_N).sum()))


def fisher_greater(hits: int, num: int, reference_hits: int, reference_num: int) -> float:
    """One-sided p that ``hits`` of ``num`` is not more than ``reference_hits`` of ``reference_num`` (hypergeometric)."""
    total_hits, total = hits + reference_hits, num + reference_num
    ways = _log_choose(total, total_hits)

    def chance(k: int) -> float:
        return math.exp(_log_choose(num, k) + _log_choose(reference_num, total_hits - k) - ways)

    upper = min(num, total_hits)
    return min(1.0, sum(chance(k) for k in range(max(hits, total_hits - reference_num), upper + 1)))


def sign_flip(differences_C: Floats, *, seed: int = 0, num_flips: int = 10_000) -> float:
    """Whether paired differences, one a cluster, are centred on 0: their signs are flipped at random.

    All 2^C patterns are taken where they are no more than ``num_flips``.
    """
    differences_C = differences_C[np.abs(differences_C) > TOLERANCE]  # a 0 has no sign to flip
    num, observed = len(differences_C), abs(float(differences_C.sum()))
    if num == 0:
        return 1.0
    if 2**num <= num_flips:
        bits = (np.arange(2**num)[:, None] >> np.arange(num)) & 1
        totals = np.abs((1 - 2 * bits) @ differences_C)
        return float((totals >= observed - TOLERANCE).mean())
    rng, found, left = np.random.default_rng(seed), 0, num_flips
    while left:
        size = min(left, max(1, 4_000_000 // num))
        signs = 1 - 2 * rng.integers(0, 2, size=(size, num))
        found += int((np.abs(signs @ differences_C) >= observed - TOLERANCE).sum())
        left -= size
    return (1 + found) / (num_flips + 1)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
