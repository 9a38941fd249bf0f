"""What votes say after promotion: rates that compare like with like, and a control chart over single votes.

Votes are self-selected: a rate of down-votes is a rate among those who vote, so it stands beside the share that votes at
all, and is compared within categories. Pure numpy; counts in, figures out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np

from worker.alignment.evaluation.intervals import wilson_interval

Z = NormalDist().inv_cdf(0.975)
WORSE = 1.5
"""The CUSUM is tuned to a down-vote rate so many times the baseline's."""
ARL0 = 10_000
"""Votes between false alarms, on average."""
PSI_LIMIT = 0.2
"""Population stability index of the category mix above which a change of the rate may be a change of what is asked."""
MIN_VOTES = 20
MIN_STRATUM = 5
BURST_SECONDS, BURST_VOTES = 60, 30

Counts = tuple[int, int]
"""(down-votes, votes)."""


@dataclass(frozen=True, slots=True)
class Rate:
    value: float | None
    low: float | None
    high: float | None
    n: int


def wilson(hits: int, n: int) -> Rate:
    """Share with its 95 % Wilson interval; no figure without a case."""
    if n == 0:
        return Rate(None, None, None, 0)
    low, high = wilson_interval(hits, n)
    return Rate(hits / n, low, high, n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjusted:
    """A version beside a baseline, category by category."""

    odds_ratio: float | None
    """Mantel-Haenszel, above 1: more down-votes than the baseline on the same categories. None without a shared one."""
    low: float | None
    high: float | None
    standardised: float | None
    """Down-vote rate that the version would have on the baseline's mix of categories."""
    psi: float | None
    """Of the category mix."""
    num_votes: int
    """In the categories that both have."""


def adjusted(version: Mapping[str, Counts], baseline: Mapping[str, Counts]) -> Adjusted:
    """Mantel-Haenszel odds ratio with the Robins-Breslow-Greenland interval, and the directly standardised rate."""
    shared = sorted(name for name in version if name in baseline and version[name][1] and baseline[name][1])
    tables = np.array(
        [[d, n - d, e, m - e] for name in shared for d, n in [version[name]] for e, m in [baseline[name]]]
    )
    psi = population_stability(
        {name: n for name, (_, n) in version.items()}, {name: n for name, (_, n) in baseline.items()}
    )
    if not shared:
        return Adjusted(odds_ratio=None, low=None, high=None, standardised=None, psi=psi, num_votes=0)
    a, b, c, d = tables.astype(float).T
    n = a + b + c + d
    r, s = a * d / n, b * c / n
    ratio = low = high = None
    if r.sum() > 0 and s.sum() > 0:
        p, q = (a + d) / n, (b + c) / n
        variance = (
            (p * r).sum() / (2 * r.sum() ** 2)
            + (p * s + q * r).sum() / (2 * r.sum() * s.sum())
            + (q * s).sum() / (2 * s.sum() ** 2)
        )
        ratio = float(r.sum() / s.sum())
        low, high = (ratio * exp(sign * Z * sqrt(variance)) for sign in (-1, 1))
    usable = (a + b) >= MIN_STRATUM
    weights = np.where(usable, c + d, 0.0)
    rate = float((weights * a / (a + b)).sum() / weights.sum()) if weights.sum() else None
    return Adjusted(odds_ratio=ratio, low=low, high=high, standardised=rate, psi=psi, num_votes=int((a + b).sum()))


def population_stability(now: Mapping[str, int], before: Mapping[str, int]) -> float | None:
    """PSI = sum (p - q) ln(p / q) over the categories, half a case added to each; None where a side is empty."""
    if not sum(now.values()) or not sum(before.values()):
        return None
    names = sorted(now.keys() | before.keys())
    p, q = (np.array([side.get(name, 0) + 0.5 for name in names]) for side in (now, before))
    p, q = p / p.sum(), q / q.sum()
    return float(((p - q) * np.log(p / q)).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cusum:
    baseline: float
    worse: float
    threshold: float
    path: list[float]
    """After each vote, in order."""
    alarm_at: int | None
    """Number of the vote, from 1, that first crossed the threshold."""


def cusum(votes: Sequence[bool], baseline: float) -> Cusum:
    """Bernoulli CUSUM of down-votes (True): S = max(0, S + llr), from the rate ``baseline`` to 1.5 times it.

    Raises ValueError for a baseline of 0 or 1: without a rate there is nothing to leave.
    """
    if not 0 < baseline < 1:
        raise ValueError("The baseline's rate must lie between 0 and 1.")
    worse = _worse(baseline)
    up, down = _steps(baseline, worse)
    path, level, alarm = [], 0.0, None
    threshold = cusum_threshold(min(max(round(baseline, 3), 0.001), 0.999))
    for number, vote in enumerate(votes, start=1):
        level = max(0.0, level + (up if vote else down))
        path.append(level)
        if alarm is None and level >= threshold:
            alarm = number
    return Cusum(baseline=baseline, worse=worse, threshold=threshold, path=path, alarm_at=alarm)


@lru_cache(maxsize=256)
def cusum_threshold(baseline: float, arl0: int = ARL0, *, seed: int = 0) -> float:
    """The level that in-control votes reach once in ``arl0`` on average, by simulation.

    Each chain's first passages at every level are read off its running maximum; the average run length is votes watched
    per passage, chains that never pass counting in full.
    """
    rng = np.random.default_rng(seed)
    chains, steps = 400, 2 * arl0
    up, down = _steps(baseline, _worse(baseline))
    levels = np.linspace(0.2, 12.0, 237)
    level_C, top_C = np.zeros(chains), np.zeros(chains)
    first_CL = np.full((chains, len(levels)), steps, dtype=np.int32)
    for step in range(steps):
        level_C = np.maximum(0.0, level_C + np.where(rng.random(chains) < baseline, up, down))
        for chain in np.flatnonzero(level_C > top_C):
            passed = (levels > top_C[chain]) & (levels <= level_C[chain])
            first_CL[chain, passed] = step + 1
            top_C[chain] = level_C[chain]
    passages_L = (first_CL < steps).sum(0)
    with np.errstate(divide="ignore"):
        arl_L = first_CL.sum(0) / passages_L
    return float(levels[np.searchsorted(arl_L, arl0)]) if arl_L[-1] >= arl0 else float(levels[-1])


def _worse(baseline: float) -> float:
    return min(WORSE * baseline, (1 + baseline) / 2)


def _steps(p0: float, p1: float) -> tuple[float, float]:
    return log(p1 / p0), log((1 - p1) / (1 - p0))


def clearly_higher(now: Counts, before: Counts, *, rise: float, factor: float = 1.0) -> bool:
    """Whether a share rose by ``rise`` and to ``factor`` times what it was, and its interval lies above the other's."""
    here, there = wilson(*now), wilson(*before)
    if None in (here.value, here.low, there.value, there.high):
        return False
    assert here.value is not None
    assert here.low is not None
    assert there.value is not None
    assert there.high is not None
    return here.value - there.value >= rise and here.value >= factor * there.value and here.low > there.high


@dataclass(frozen=True, slots=True, kw_only=True)
class OddRater:
    rater: str
    down: int
    votes: int
    busiest_minute: int
    why: str


def odd_raters(raters: Mapping[str, tuple[int, int, int]]) -> list[OddRater]:
    """Raters whose share of down-votes lies far from the others' (two-sided, Bonferroni), or who vote in bursts.

    ``raters``: (down-votes, votes, votes in the busiest minute). The others' share leaves the rater out, so that one flood
    does not hide itself.
    """
    down, total = (sum(counts[place] for counts in raters.values()) for place in (0, 1))
    judged = [name for name, counts in raters.items() if counts[1] >= MIN_VOTES]
    limit = NormalDist().inv_cdf(1 - 0.05 / (2 * max(1, len(judged))))
    found = []
    for name, (hits, votes, busiest) in sorted(raters.items()):
        others = total - votes
        reasons = []
        if name in judged and others >= MIN_VOTES:
            share = (down - hits) / others
            spread = sqrt(max(share * (1 - share), 1 / others) * (1 / votes + 1 / others))
            if abs(hits / votes - share) > limit * spread and abs(hits / votes - share) >= 0.2:
                reasons.append(f"{100 * hits / votes:.0f} % down-votes, the others {100 * share:.0f} %")
        if busiest >= BURST_VOTES:
            reasons.append(f"{busiest} votes in one minute")
        if reasons:
            found.append(OddRater(rater=name, down=hits, votes=votes, busiest_minute=busiest, why="; ".join(reasons)))
    return found
