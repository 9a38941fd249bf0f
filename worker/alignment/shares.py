"""Which process computes what: a pure function of the data, so that every process knows the others' part.

A step takes as long as its heaviest process, so shares are balanced by tokens. Rows that share a beginning are cheaper
together than apart: whichever of two ways gives the lighter heaviest share is taken, rows one by one to the least loaded,
or the sorted rows (neighbours share most) cut into runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worker.alignment.dataset import IntArray, Pair
from worker.alignment.packing import MIN_SHARED, common_length, inputs_of, lexicographic


def share_units(
    pairs: Sequence[Pair], units: Sequence[Sequence[int]], size: int, *, share: bool = True
) -> list[list[int]]:
    """Places in ``units`` for each of ``size`` processes, ascending; a unit's rows stay together. Shares may be empty."""
    inputs = [inputs_of(pair) for pair in pairs]
    rank = {row: place for place, row in enumerate(lexicographic(inputs))}
    dealt = deal([sum(len(inputs[row]) for row in rows) for rows in units], size)
    if not share:
        return dealt
    order = sorted(range(len(units)), key=lambda unit: min(rank[row] for row in units[unit]))
    sorted_rows = [[inputs[row] for row in sorted(units[unit], key=rank.__getitem__)] for unit in order]
    runs = [sorted(order[place] for place in run) for run in _runs(sorted_rows, size)]

    def heaviest(shares: list[list[int]]) -> int:
        rows = (sorted((row for unit in part for row in units[unit]), key=rank.__getitem__) for part in shares)
        return max(packed_tokens([inputs[row] for row in part]) for part in rows)

    return min((dealt, runs), key=heaviest)


def deal(costs: Sequence[int], size: int) -> list[list[int]]:
    """Items over ``size`` processes, the costliest first, each to the least loaded: places of each process, ascending."""
    loads = [0] * size
    dealt: list[list[int]] = [[] for _ in range(size)]
    for item in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
        least = min(range(size), key=lambda process: (loads[process], process))
        loads[least] += costs[item]
        dealt[least].append(item)
    return [sorted(items) for items in dealt]


def packed_tokens(sorted_inputs: Sequence[IntArray]) -> int:
    """Tokens of one pack of sorted rows: what a row has in common with the one before counts once."""
    total = 0
    before: IntArray = np.empty(0, dtype=np.int64)
    for tokens in sorted_inputs:
        shared = common_length(before, tokens)
        total += len(tokens) - (shared if shared >= MIN_SHARED else 0)
        before = tokens
    return total


def _runs(rows: Sequence[Sequence[IntArray]], size: int) -> list[list[int]]:
    """Neighbouring items in at most ``size`` runs whose heaviest is as light as can be (by bisection on its weight)."""
    alone = [packed_tokens(each) for each in rows]
    joined = [
        alone[item] if item == 0 else packed_tokens([rows[item - 1][-1], *each]) - len(rows[item - 1][-1])
        for item, each in enumerate(rows)
    ]

    def cut(limit: int) -> list[list[int]]:
        runs: list[list[int]] = []
        load = limit + 1
        for item in range(len(rows)):
            load += joined[item]
            if load > limit:
                runs.append([])
                load = alone[item]
            runs[-1].append(item)
        return runs

    low, high = max(alone, default=0), sum(alone)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(cut(middle)) <= size else (middle + 1, high)
    runs = cut(low)
    return runs + [[] for _ in range(size - len(runs))]
