"""Bootstrap intervals that resample clusters (prompts, conversations or categories), never single rows.

Resampling rows understates the standard error by 1.3x to 2.3x on crowd votes, where rows of one prompt agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_RESAMPLES = 1000
MIN_CLUSTERS = 30
"""Below this a percentile bootstrap covers well under its 95 %: no interval is given."""
_CELLS = 4_000_000  # weights held at once


def cluster_index(keys: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Each row's cluster as a number 0..C-1, [N], and C."""
    names, index = np.unique(keys.astype(str), return_inverse=True)
    return index.astype(np.int64), len(names)


def bootstrap_interval(
    cluster_N: NDArray[np.int64],
    num_clusters: int,
    statistic: Callable[[Floats], Floats],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> tuple[float, float] | tuple[None, None]:
    """95 % percentile interval of a weighted statistic under resampling of whole clusters.

    ``statistic`` takes row weights [R, N] (how often each row was drawn) and returns [R], NaN where a resample lacks
    what the statistic needs. (None, None) below MIN_CLUSTERS clusters, or where more than 5 % of the resamples are NaN.
    """
    if num_clusters < MIN_CLUSTERS:
        return None, None
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS // max(1, len(cluster_N)))
    values = []
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        counts_RC = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=size)
        values.append(statistic(counts_RC[:, cluster_N].astype(np.float64)))
    drawn = np.concatenate(values)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 0.95 * num_resamples:
        return None, None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def weighted_mean(values_N: Floats) -> Callable[[Floats], Floats]:
    """The statistic ``sum w x / sum w`` for ``bootstrap_interval``."""

    def statistic(weights_RN: Floats) -> Floats:
        total_R = weights_RN.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = weights_RN @ values_N / total_R
        return result

    return statistic


def weighted_auc(scores_N: Floats, labels_N: NDArray[np.bool_]) -> Callable[[Floats], Floats]:
    """The statistic P(score of a desirable row > score of an undesirable row), ties counted half."""
    order = np.argsort(scores_N, kind="stable")
    starts = np.flatnonzero(np.diff(scores_N[order], prepend=np.nan) != 0)  # first row of each distinct score
    positive = labels_N[order].astype(np.float64)

    def statistic(weights_RN: Floats) -> Floats:
        sorted_RN = weights_RN[:, order]
        up_RG = np.add.reduceat(sorted_RN * positive, starts, axis=1)
        down_RG = np.add.reduceat(sorted_RN * (1 - positive), starts, axis=1)
        below_RG = down_RG.cumsum(1) - down_RG
        pairs_R = up_RG.sum(1) * down_RG.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Floats = (up_RG * (below_RG + 0.5 * down_RG)).sum(1) / pairs_R
        return result

    return statistic


def auc(scores_N: Floats, labels_N: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve, ties 0.5; None where a class is missing."""
    if labels_N.all() or not labels_N.any():
        return None
    return float(weighted_auc(scores_N, labels_N)(np.ones((1, len(scores_N))))[0])
