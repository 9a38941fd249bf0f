"""95 % intervals of the figures that the pages print: means, paired differences, AUC, shares."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.stats import (
    MIN_CLUSTERS,
    Floats,
    auc,
    bootstrap_interval,
    cluster_index,
    weighted_auc,
)
from worker.alignment.events import Estimate

Interval = tuple[float, float] | tuple[None, None]


def mean_interval(values_N: Floats, clusters_N: NDArray[Any], *, seed: int = 0) -> Interval:
    """Of the rows' mean; rows of one cluster stay together. (None, None) below 5 clusters or without any spread."""
    cluster_of_N, num_clusters = cluster_index(clusters_N)
    sums_C = np.bincount(cluster_of_N, weights=values_N, minlength=num_clusters)
    sizes_C = np.bincount(cluster_of_N, minlength=num_clusters).astype(np.float64)

    def statistic(weights_RC: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = (weights_RC @ sums_C) / (weights_RC @ sizes_C)
        return result

    return bootstrap_interval(np.arange(num_clusters), num_clusters, statistic, seed=seed)


def mean_estimate(values_N: Floats, clusters_N: NDArray[Any], *, seed: int = 0, share: bool = False) -> Estimate:
    """The rows' mean with its interval; ``n`` is their number.

    With ``share`` values and interval lie within 0 and 1; where all rows are 0 or all are 1 it is Wilson's over clusters,
    since rows without any spread do not make the mean certain.
    """
    if len(values_N) == 0:
        return Estimate(value=None)
    value = float(values_N.mean())
    low, high = mean_interval(values_N, clusters_N, seed=seed)
    if share:
        _, num_clusters = cluster_index(clusters_N)
        if value in {0.0, 1.0} and num_clusters >= MIN_CLUSTERS:
            low, high = wilson_interval(int(value) * num_clusters, num_clusters)
        elif low is not None and high is not None:
            low, high = max(0.0, low), min(1.0, high)
    return Estimate(value=value, low=low, high=high, n=len(values_N))


def auc_estimate(scores_N: Floats, labels_N: NDArray[np.bool_], clusters_N: NDArray[Any], *, seed: int = 0) -> Estimate:
    """AUC with its interval within 0 and 1; None where a class is missing.

    Where the classes are told apart without an error it is Wilson's over the clusters of the rarer class.
    """
    value = auc(scores_N, labels_N)
    if value is None:
        return Estimate(value=None, n=len(scores_N))
    index_N, num_clusters = cluster_index(clusters_N)
    low, high = bootstrap_interval(index_N, num_clusters, weighted_auc(scores_N, labels_N), seed=seed)
    rarer = min(len(np.unique(index_N[rows])) for rows in (labels_N, ~labels_N))
    if value in {0.0, 1.0} and num_clusters >= MIN_CLUSTERS:
        low, high = wilson_interval(int(value) * rarer, rarer)
    if low is None or high is None:
        return Estimate(value=value, n=len(scores_N))
    return Estimate(value=value, low=max(0.0, low), high=min(1.0, high), n=len(scores_N))


def wilson_interval(hits: int, num: int, level: float = 0.95) -> Interval:
    """Of a share of independent rows (Wilson 1927); (None, None) without any."""
    if num == 0:
        return None, None
    return wilson_bounds(hits / num, num, NormalDist().inv_cdf((1 + level) / 2))


def wilson_bounds(share: float, num: float, z: float) -> tuple[float, float]:
    """The same of a share of ``num`` rows, which need not be whole, ``z`` standard errors to either side."""
    spread = z * z / num
    middle = (share + spread / 2) / (1 + spread)
    reach = z / (1 + spread) * (share * (1 - share) / num + spread / (4 * num)) ** 0.5
    # at the ends the bound is exact, but for the last bits
    return (0.0 if share == 0 else max(0.0, middle - reach)), (1.0 if share == 1 else min(1.0, middle + reach))


def clopper_pearson_upper(hits: int, num: int, level: float = 0.975) -> float:
    """Exact upper bound of a share: at it, ``hits`` or fewer have a chance of 1 - level."""
    if hits >= num:
        return 1.0
    return _bisect(lambda share: _binomial_cdf(hits, num, share) > 1 - level)


def _binomial_cdf(hits: int, num: int, share: float) -> float:
    """Summed from its own logarithms, so that thousands of rows neither overflow nor vanish."""
    k = np.arange(hits + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((num - k[:-1]) / (k[:-1] + 1)))])
    return float(np.exp(logs + k * np.log(share) + (num - k) * np.log1p(-share)).sum())


def _bisect(below: Callable[[float], bool]) -> float:
    """Where ``below`` turns from true to false between 0 and 1."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2
