"""What an objective trains on: units of rows, a pure function of the rows.

KTO and APO take every row by itself, SFT the desirable rows alone, DPO pairs of a desirable and an undesirable row of
one prompt. With ``data="paired"`` the first three take the rows of DPO's pairs, each as often as they hold it. The
sampler draws units, and ``batch_size`` counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from worker.alignment.config import AlignmentConfig
from worker.alignment.dataset import Row
from worker.alignment.partners import content_key


class Units(NamedTuple):
    units: list[tuple[int, ...]]
    """Places of each unit's rows; a DPO pair is (desirable, undesirable)."""
    num_left_out: int
    """Rows that are in no unit."""

    def labels(self, rows: Sequence[Row]) -> list[bool]:
        """Of all rows that an epoch goes through, a row once for each unit that holds it."""
        return [rows[index].label for unit in self.units for index in unit]


def form_units(rows: Sequence[Row], config: AlignmentConfig) -> Units:
    """The units of ``rows``; the split was made before, so no pair ever crosses it."""
    if config.objective == "dpo":
        units: list[tuple[int, ...]] = _pairs(rows, config.max_pairs_per_prompt)
    else:
        taken: Sequence[int] = range(len(rows))
        if config.data == "paired":
            taken = [index for pair in _pairs(rows, config.max_pairs_per_prompt) for index in pair]
        units = [(index,) for index in taken if rows[index].label or config.objective != "sft"]
    return Units(units, len(rows) - len({index for unit in units for index in unit}))


def each_row(rows: Sequence[Row]) -> list[tuple[int, ...]]:
    """Every row by itself, as a split is evaluated whatever the objective."""
    return [(index,) for index in range(len(rows))]


def _pairs(rows: Sequence[Row], max_pairs: int) -> list[tuple[int, ...]]:
    """For each prompt max(n_desirable, n_undesirable) pairs, ``max_pairs`` at most: the longer side once, the shorter in
    turn.

    Both sides stand in the order of their contents' hashes, texts that were rated several times after all others were
    taken once: neither ids nor the order of the file matter, and few pairs still show many texts. Two equal completions
    are no preference (their loss has no gradient): the next that differs takes the place.
    """
    sides: dict[str, tuple[list[int], list[int]]] = {}
    for index, row in enumerate(rows):
        sides.setdefault(row.prompt_key, ([], []))[0 if row.label else 1].append(index)
    found: list[tuple[int, ...]] = []
    for one, two in sides.values():
        desirable, undesirable = _spread(rows, one), _spread(rows, two)
        flipped = len(undesirable) > len(desirable)
        longer, shorter = (undesirable, desirable) if flipped else (desirable, undesirable)
        room = max_pairs
        for place, index in enumerate(longer):
            turn = (shorter[(place + shift) % len(shorter)] for shift in range(len(shorter)))
            other = next((other for other in turn if _differ(rows[index], rows[other])), None)
            if other is not None and room:
                found.append((other, index) if flipped else (index, other))
                room -= 1
    return found


def _spread(rows: Sequence[Row], side: Sequence[int]) -> list[int]:
    """By content's hash; the second row of a text stands after the first of every other."""
    repeats: Counter[bytes] = Counter()
    ranked = []
    for key, _, index in sorted((content_key(rows[index]), rows[index].id, index) for index in side):
        ranked.append((repeats[key], key, index))
        repeats[key] += 1
    return [index for _, _, index in sorted(ranked)]


def _differ(one: Row, two: Row) -> bool:
    return one.pair.completion_ids.tobytes() != two.pair.completion_ids.tobytes()
