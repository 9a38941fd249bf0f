"""Agreement between raters: percent, Cohen's and Fleiss' kappa, Krippendorff's alpha, Gwet's AC1, each with an interval.

Everything is computed from counts: one row per distinct pattern of votes and how many items have it. So a million ratings
cost as much as the few patterns they fall into. Only items with two or more votes count.

With thumbs one class is rare, and kappa and alpha then fall although nearly all votes agree (the "paradox" of Feinstein and
Cicchetti 1990); AC1 does not, which is why pages show it first.

Intervals are 95 %, by the jackknife over items: the statistic without each item in turn gives its standard error; the interval
is the value plus and minus 1.96 of these, kept within what the measure can be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Agreement:
    value: float
    low: float
    high: float
    items: int
    """Items that count: those with two or more votes."""


@dataclass(frozen=True, slots=True)
class AgreementTable:
    """All measures over the same votes."""

    percent: Agreement
    """Mean over items of the share of pairs of votes that agree."""
    fleiss: Agreement
    """Fleiss 1971 (Psychological Bulletin 76); with numbers of votes that differ, the mean over items of class shares."""
    alpha: Agreement
    """Krippendorff's alpha, nominal (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability)."""
    ac1: Agreement
    """Gwet 2008 (Br. J. Math. Stat. Psychol. 61)."""


def agreement_table(patterns: Sequence[Sequence[int]]) -> AgreementTable | None:
    """``patterns``: (votes for class 1, …, votes for class K, number of items with these). None with fewer than two items.

    For thumbs a row is (ups, downs, items).
    """
    tally = _Tally.of(patterns)
    if tally is None:
        return None
    return AgreementTable(
        percent=tally.jackknife(_percent, 0.0),
        fleiss=tally.jackknife(_fleiss, -1.0),
        alpha=tally.jackknife(_alpha, -1.0),
        ac1=tally.jackknife(_ac1, -1.0),
    )


def cohen(table: Sequence[Sequence[int]]) -> Agreement | None:
    """Cohen's kappa of two raters (Cohen 1960, Educ. Psychol. Meas. 20). None with fewer than two items.

    ``table[i][j]``: items to which the first gave class i and the second class j.
    """
    cells = np.asarray(table, dtype=np.float64)
    total = cells.sum()
    if total < 2:
        return None

    def kappa(counts: Floats) -> float:
        n = counts.sum()
        observed = float(np.trace(counts)) / n
        expected = float(counts.sum(1) @ counts.sum(0)) / n**2
        return _above_chance(observed, expected)

    left_out, times = [], []
    for place in np.argwhere(cells > 0):
        fewer = cells.copy()
        fewer[tuple(place)] -= 1
        left_out.append(kappa(fewer))
        times.append(cells[tuple(place)])
    return _with_interval(kappa(cells), np.asarray(left_out), np.asarray(times), -1.0)


@dataclass(frozen=True, slots=True)
class _Sums:
    """What the measures need, as sums over items; arrays where one item was left out in turn."""

    items: Floats
    agreed: Floats
    """Sum of the items' shares of agreeing pairs."""
    shares: Floats
    """Sum of the items' class shares, [..., K]."""
    votes: Floats
    """Votes per class, [..., K]."""
    coincident: Floats
    """Krippendorff's coincidences on the diagonal."""


@dataclass(frozen=True, slots=True)
class _Tally:
    votes_PK: Floats
    times_P: Floats

    @classmethod
    def of(cls, patterns: Sequence[Sequence[int]]) -> _Tally | None:
        rows = [tuple(row) for row in patterns if sum(row[:-1]) >= 2 and row[-1]]
        if sum(row[-1] for row in rows) < 2:
            return None
        table = np.asarray(rows, dtype=np.float64)
        return cls(table[:, :-1], table[:, -1])

    def jackknife(self, measure: Callable[[_Sums], Floats], lowest: float) -> Agreement:
        total_P = self.votes_PK.sum(1)
        pairs_P = (self.votes_PK * (self.votes_PK - 1)).sum(1)
        each = _Sums(
            np.ones_like(total_P),
            pairs_P / (total_P * (total_P - 1)),
            self.votes_PK / total_P[:, None],
            self.votes_PK,
            pairs_P / (total_P - 1),
        )
        parts = (each.items, each.agreed, each.shares, each.votes, each.coincident)
        whole = [np.tensordot(self.times_P, part, axes=1) for part in parts]
        value = float(measure(_Sums(*whole)))
        left_out_P = measure(_Sums(*(one - part for one, part in zip(whole, parts, strict=True))))
        return _with_interval(value, left_out_P, self.times_P, lowest)


def _with_interval(value: float, left_out_P: Floats, times_P: Floats, lowest: float) -> Agreement:
    items = float(times_P.sum())
    mean = float((left_out_P * times_P).sum()) / items
    spread = float((times_P * (left_out_P - mean) ** 2).sum())
    half = Z95 * ((items - 1) / items * spread) ** 0.5
    return Agreement(value, max(value - half, lowest), min(value + half, 1.0), int(items))


def _above_chance(observed: Floats | float, expected: Floats | float) -> float:
    return float(_corrected(np.asarray(observed), np.asarray(expected)))


def _corrected(observed: Floats, expected: Floats) -> Floats:
    """(observed - expected) / (1 - expected); 1 where all votes are of one class, so that chance explains everything."""
    room = 1.0 - expected
    safe = np.where(room > 1e-12, room, 1.0)
    return np.where(room > 1e-12, (observed - expected) / safe, 1.0)


def _percent(sums: _Sums) -> Floats:
    return sums.agreed / sums.items


def _fleiss(sums: _Sums) -> Floats:
    shares = sums.shares / sums.items[..., None]
    return _corrected(sums.agreed / sums.items, (shares**2).sum(-1))


def _ac1(sums: _Sums) -> Floats:
    shares = sums.shares / sums.items[..., None]
    by_chance = (shares * (1 - shares)).sum(-1) / (shares.shape[-1] - 1)
    return _corrected(sums.agreed / sums.items, by_chance)


def _alpha(sums: _Sums) -> Floats:
    votes = sums.votes.sum(-1)
    expected = (sums.votes * (sums.votes - 1)).sum(-1) / (votes * (votes - 1))
    return _corrected(sums.coincident / votes, expected)
