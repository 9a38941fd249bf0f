from __future__ import annotations

import random
from collections import Counter

import numpy as np

from worker.alignment.dataset import Pair, Row
from worker.alignment.units import form_units


def row(number: int, prompt: str, label: bool, *, text: int | None = None) -> Row:
    completion = np.asarray([number if text is None else text], dtype=np.int64)
    return Row(
        id=number,
        pair=Pair(np.asarray([1], dtype=np.int64), completion),
        label=label,
        category=None,
        root=prompt,
        prompt_key=prompt,
        messages=[],
    )


def said(rows: list[Row], units: list[tuple[int, ...]]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(rows[index].id for index in unit) for unit in units)


MIXED = [
    *(row(n, "a", True) for n in range(3)),
    *(row(n, "a", False) for n in range(3, 10)),
    *(row(n, "b", True) for n in range(10, 15)),
    row(15, "b", False),
    row(16, "c", True),
    row(17, "d", False),
]


def test_kto_takes_each_row_and_sft_the_desirable_ones() -> None:
    for objective in ("kto", "apo_zero_unpaired"):
        assert form_units(MIXED, objective) == ([(n,) for n in range(len(MIXED))], 0)
    desirable = [(n,) for n, row in enumerate(MIXED) if row.label]
    assert form_units(MIXED, "sft") == (desirable, len(MIXED) - len(desirable))


def test_dpo_pairs_the_longer_side_once_and_the_shorter_in_turn() -> None:
    units, left_out = form_units(MIXED, "dpo")
    assert left_out == 2  # the rows of c and d have no counterpart
    assert len(units) == 7 + 5
    for chosen, rejected in units:
        assert MIXED[chosen].label
        assert not MIXED[rejected].label
        assert MIXED[chosen].prompt_key == MIXED[rejected].prompt_key
    uses = Counter(index for unit in units for index in unit)
    assert {uses[n] for n in range(3, 10)} == {1}
    assert sorted(uses[n] for n in range(3)) == [2, 2, 3]
    assert uses[15] == 5


def test_pairs_depend_on_the_contents_alone() -> None:
    expected = said(MIXED, form_units(MIXED, "dpo").units)
    for seed in range(3):
        shuffled = random.Random(seed).sample(MIXED, len(MIXED))
        assert said(shuffled, form_units(shuffled, "dpo").units) == expected


def test_trap_17_one_text_rated_both_ways_is_no_pair() -> None:
    """The same completion up and down has no gradient as a pair: another counterpart is taken, or none."""
    rows = [
        row(0, "a", True, text=7),
        row(1, "a", False, text=7),
        row(2, "a", False, text=8),
        row(3, "b", True, text=9),
    ]
    rows.append(row(4, "b", False, text=9))
    units, left_out = form_units(rows, "dpo")
    assert units == [(0, 2)]
    assert left_out == 3
