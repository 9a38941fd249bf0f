"""How long completions are, by class: a reward that only measures length shows here first."""

from __future__ import annotations

from dataclasses import dataclass

NUM_BINS = 20
SKEWED = 0.25


@dataclass(frozen=True, slots=True)
class Lengths:
    """Characters per completion and class."""

    edges: list[int]
    desirable: list[int]
    undesirable: list[int]
    median_desirable: int | None
    median_undesirable: int | None

    @property
    def skew(self) -> float | None:
        """How much longer undesirable completions are: 0.4 = 40 % longer, -0.2 = 20 % shorter."""
        if not self.median_desirable or self.median_undesirable is None:
            return None
        return self.median_undesirable / self.median_desirable - 1

    @property
    def is_skewed(self) -> bool:
        return self.skew is not None and abs(self.skew) > SKEWED


def length_table(rows: list[tuple[bool, int, int]]) -> Lengths:
    """``rows``: (label, characters, count) sorted by length. Bins are equally wide; the last one takes the longest 2 %."""
    top = _quantile([(length, count) for _, length, count in rows], 0.98) or NUM_BINS
    width = max(-(-top // NUM_BINS), 1)
    step = 10 ** max(len(str(width)) - 2, 0)
    width = -(-width // step) * step
    bins = {True: [0] * NUM_BINS, False: [0] * NUM_BINS}
    for label, length, count in rows:
        bins[label][min(length // width, NUM_BINS - 1)] += count
    medians = {
        side: _quantile([(length, count) for label, length, count in rows if label is side], 0.5)
        for side in (True, False)
    }
    edges = [width * i for i in range(NUM_BINS + 1)]
    return Lengths(edges, bins[True], bins[False], medians[True], medians[False])


def _quantile(sorted_counts: list[tuple[int, int]], share: float) -> int | None:
    """The smallest value with at least ``share`` of the counts at or below it."""
    total = sum(count for _, count in sorted_counts)
    seen = 0
    for value, count in sorted_counts:
        seen += count
        if seen >= share * total:
            return value
    return None
