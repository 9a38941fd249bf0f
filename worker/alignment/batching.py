"""Which rows (or DPO pairs) share an optimizer step: a pure function of labels, lengths, batch size, seed, epoch and window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from worker.alignment.dataset import IntArray


def num_steps_per_epoch(num_rows: int, batch_size: int) -> int:
    return math.ceil(num_rows / batch_size)


def epoch_steps(
    labels: Sequence[bool],
    lengths: Sequence[int] = (),
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    window: int = 1,
) -> list[IntArray]:
    """Item indices of each optimizer step of one epoch; every item comes once.

    Both classes are shuffled apart and dealt evenly, so each step carries the data's own mix within one item of each
    class: a file sorted by label is harmless, and a class is absent from a step only when it has fewer items than
    steps. Items are spread over ceil(N / batch_size) steps of equal size within one; no step is a small remainder.

    ``window`` > 1 gathers items of similar ``lengths`` in a step: what so many neighbouring steps hold of a class is
    sorted by length before it is dealt to them. Then the order of all steps is shuffled.
    """
    rng = np.random.default_rng((seed, epoch))
    labels_N = np.asarray(labels, dtype=bool)
    desirable, undesirable = (rng.permutation(np.flatnonzero(labels_N == side)) for side in (True, False))
    count = num_steps_per_epoch(len(labels_N), batch_size)
    # Rounding one class down and the other up keeps the step sizes equal: floor(x) + ceil(n - x) = n.
    low = [s * len(desirable) // count for s in range(count + 1)]
    high = [-(-s * len(undesirable) // count) for s in range(count + 1)]
    if window > 1:
        lengths_N = np.asarray(lengths, dtype=np.int64)
        desirable, undesirable = (
            _sorted_in_windows(side, lengths_N, borders[::window] + borders[-1:])
            for side, borders in ((desirable, low), (undesirable, high))
        )
    steps = [
        rng.permutation(np.concatenate([desirable[low[s] : low[s + 1]], undesirable[high[s] : high[s + 1]]]))
        for s in range(count)
    ]
    return [steps[s] for s in rng.permutation(count)]


def _sorted_in_windows(items: IntArray, lengths_N: IntArray, borders: Sequence[int]) -> IntArray:
    """The shuffled items of one class, sorted by length between each two borders; equal lengths stay shuffled."""
    chunks = (items[start:end] for start, end in itertools.pairwise(borders))
    return np.concatenate([chunk[np.argsort(lengths_N[chunk], kind="stable")] for chunk in chunks])
