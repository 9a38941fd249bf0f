"""Gwet's AC1 between raters (Gwet 2008, Br. J. Math. Stat. Psychol. 61): robust where one class is rare, unlike kappa."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True, slots=True)
class Agreement:
    ac1: float
    low: float
    high: float
    """95 % interval by the jackknife over completions, within [-1, 1]."""
    overlaps: int
    """Completions with two or more ratings: the only ones that count."""


def agreement(votes: Sequence[tuple[int, int, int]]) -> Agreement | None:
    """``votes``: (ups, downs, number of completions with these). None with fewer than two overlaps."""
    shared = [(ups, downs, count) for ups, downs, count in votes if ups + downs >= 2 and count]
    n = sum(count for _, _, count in shared)
    if n < 2:
        return None
    agreed = [(ups * (ups - 1) + downs * (downs - 1)) / ((ups + downs) * (ups + downs - 1)) for ups, downs, _ in shared]
    up_share = [ups / (ups + downs) for ups, downs, _ in shared]
    counts = [count for _, _, count in shared]
    sum_agreed = sum(value * count for value, count in zip(agreed, counts, strict=True))
    sum_up = sum(value * count for value, count in zip(up_share, counts, strict=True))
    whole = _ac1(sum_agreed / n, sum_up / n)
    left_out = [_ac1((sum_agreed - a) / (n - 1), (sum_up - u) / (n - 1)) for a, u in zip(agreed, up_share, strict=True)]
    mean = sum(value * count for value, count in zip(left_out, counts, strict=True)) / n
    spread = sum(count * (value - mean) ** 2 for value, count in zip(left_out, counts, strict=True))
    half = 1.96 * sqrt((n - 1) / n * spread)
    return Agreement(whole, max(whole - half, -1.0), min(whole + half, 1.0), n)


def _ac1(observed: float, up_share: float) -> float:
    by_chance = 2 * up_share * (1 - up_share)
    return (observed - by_chance) / (1 - by_chance)
