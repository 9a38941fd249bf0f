"""What an objective trains on: units of rows, a pure function of the rows.

KTO and APO take every row by itself, SFT the desirable rows alone, DPO pairs of a desirable and an undesirable row of
one prompt. The sampler draws units, and ``batch_size`` counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from worker.alignment.config import Objective
from worker.alignment.dataset import Row
from worker.alignment.partners import content_key


class Units(NamedTuple):
    units: list[tuple[int, ...]]
    """Places of each unit's rows; a DPO pair is (desirable, undesirable)."""
    num_left_out: int
    """Rows that are in no unit."""


def form_units(rows: Sequence[Row], objective: Objective) -> Units:
    """The units of ``rows``; the split was made before, so no pair ever crosses it."""
    if objective == "dpo":
        units: list[tuple[int, ...]] = _pairs(rows)
    else:
        units = [(index,) for index, row in enumerate(rows) if row.label or objective != "sft"]
    return Units(units, len(rows) - len({index for unit in units for index in unit}))


def _pairs(rows: Sequence[Row]) -> list[tuple[int, ...]]:
    """For each prompt max(n_desirable, n_undesirable) pairs: the longer side once, the shorter one in turn.

    Both sides stand in the order of their contents' hashes, so neither ids nor the order of the file matter. Two equal
    completions are no preference (their loss has no gradient): the next that differs takes the place.
    """
    sides: dict[str, tuple[list[int], list[int]]] = {}
    for index, row in enumerate(rows):
        sides.setdefault(row.prompt_key, ([], []))[0 if row.label else 1].append(index)
    found: list[tuple[int, ...]] = []
    for desirable, undesirable in sides.values():
        for side in (desirable, undesirable):
            side.sort(key=lambda index: (content_key(rows[index]), rows[index].id))
        flipped = len(undesirable) > len(desirable)
        longer, shorter = (undesirable, desirable) if flipped else (desirable, undesirable)
        for place, index in enumerate(longer):
            turn = (shorter[(place + shift) % len(shorter)] for shift in range(len(shorter)))
            other = next((other for other in turn if _differ(rows[index], rows[other])), None)
            if other is not None:
                found.append((other, index) if flipped else (index, other))
    return found


def _differ(one: Row, two: Row) -> bool:
    return one.pair.completion_ids.tobytes() != two.pair.completion_ids.tobytes()
