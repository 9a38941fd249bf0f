"""What a test could have seen: the smallest change found with 80 % power, and how many clusters a change needs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

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
