"""One paired difference between two arms on the same units, clustered: its interval, p-values and what it could have shown."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.alignment.evaluation.student import t_quantile, t_tail

MIN_CLUSTERS = 10
"""Below this no interval is given and nothing is concluded."""
POWER = 0.80
_RARE_CLUSTERS, _RARE_SHARE = 20, 0.1
"""Fewer clusters that differ than both: the differences are rare events, not a spread."""
Scores = Mapping[str, float]
"""Score by unit (a sample, a prompt or a category), better being higher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """First arm minus second, in the unit of the scores."""

    value: float | None
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    num_units: int = 0
    num_clusters: int = 0
    p: float | None = None
    """Two-sided, of no difference."""
    detectable: float | None = None
    """The smallest true difference that would have been seen with 80 % power at 5 % two-sided."""
    seed_sd: float | None = None
    """Standard deviation of the difference over seeds; None with one seed."""

    @property
    def within_seeds(self) -> bool:
        """Whether it is smaller than twice its spread over seeds."""
        return self.seed_sd is not None and self.value is not None and abs(self.value) < 2 * self.seed_sd

    def p_above(self, margin: float) -> float | None:
        """One-sided, of a true difference of ``-margin`` or less: small means not worse by the margin."""
        if self.value is None or self.standard_error is None:
            return None
        return t_tail((self.value + margin) / self.standard_error, self.num_clusters - 1)

    @property
    def p_worse(self) -> float | None:
        """One-sided, of a true difference of 0 or more: small means worse."""
        above = self.p_above(0.0)
        return None if above is None else 1 - above


def paired_difference(
    first: Sequence[Scores], second: Sequence[Scores], clusters: Mapping[str, str] | None = None
) -> Difference:
    """``first`` and ``second`` hold one mapping per seed; only units that every seed of both scored are compared.

    A unit's score is its mean over the seeds, and the interval is Student's over clusters (cluster-robust standard error,
    C - 1 degrees of freedom), so it speaks of other prompts, not of other seeds. ``clusters`` names a unit's cluster; a unit
    that it lacks is one by itself. Where all units agree exactly, the rule of three bounds the interval: 3 / C on each side
    for scores within 0 and 1. Where only a few clusters differ, the standard error is at least that of rare events: one
    harmful answer more in 300 does not show that there are fewer than 1 % more.
    """
    units = sorted(set.intersection(*(set(scores) for scores in (*first, *second)))) if first and second else []
    if not units:
        return Difference(value=None)
    differences = {unit: _mean([s[unit] for s in first]) - _mean([s[unit] for s in second]) for unit in units}
    value = _mean(list(differences.values()))
    sums: dict[str, float] = defaultdict(float)
    totals: dict[str, float] = defaultdict(float)
    for unit, difference in differences.items():
        sums[(clusters or {}).get(unit, unit)] += difference - value
        totals[(clusters or {}).get(unit, unit)] += difference
    count, seed_sd = len(sums), _seed_sd(first, second, units)
    if count < MIN_CLUSTERS:
        return Difference(value=value, num_units=len(units), num_clusters=count, seed_sd=seed_sd)
    error = math.sqrt(count / (count - 1) * math.fsum(total * total for total in sums.values())) / len(units)
    critical = t_quantile(0.975, count - 1)
    if error < 1e-9:
        error = 3 / count / critical
    error = max(error, _rare_reach(list(totals.values()), critical) / critical / len(units))
    return Difference(
        value=value,
        low=value - critical * error,
        high=value + critical * error,
        standard_error=error,
        num_units=len(units),
        num_clusters=count,
        p=2 * t_tail(abs(value) / error, count - 1),
        detectable=(critical + t_quantile(POWER, count - 1)) * error,
        seed_sd=seed_sd,
    )


def clusters_needed(difference: Difference, margin: float) -> int | None:
    """Clusters that would show a true difference of 0 to be above ``-margin`` with 80 % power."""
    if difference.standard_error is None or margin <= 0:
        return None
    ratio = (1.959964 + 0.841621) * difference.standard_error / margin
    return math.ceil(difference.num_clusters * ratio * ratio)


def _rare_reach(totals_C: Sequence[float], critical: float) -> float:
    """How far the sum of rare differences reaches, the further of both ways; 0 where they are not rare.

    Differences are counted in sizes of the largest; either way's count has a Poisson score interval, and the two are combined
    by the square root of their squares (MOVER, Newcombe 1998).
    """
    moved = [abs(total) for total in totals_C if abs(total) > 1e-9]
    if not moved or len(moved) >= _RARE_CLUSTERS or len(moved) > _RARE_SHARE * len(totals_C):
        return 0.0
    size = max(moved)
    ways = [math.fsum(max(0.0, sign * total) for total in totals_C) / size for sign in (1, -1)]
    half = critical * critical / 2
    above, below = ([half + side * critical * math.sqrt(count + half / 2) for count in ways] for side in (1, -1))
    return size * max(math.hypot(above[0], below[1]), math.hypot(above[1], below[0]))


def _seed_sd(first: Sequence[Scores], second: Sequence[Scores], units: Sequence[str]) -> float | None:
    """Seeds are paired where both arms have as many, else their variances are added."""
    ones = [_mean([scores[unit] for unit in units]) for scores in first]
    twos = [_mean([scores[unit] for unit in units]) for scores in second]
    if len(ones) == len(twos) > 1:
        return _sd([one - two for one, two in zip(ones, twos, strict=True)])
    if max(len(ones), len(twos)) < 2:
        return None
    return math.hypot(_sd(ones), _sd(twos))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _sd(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    middle = _mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))
