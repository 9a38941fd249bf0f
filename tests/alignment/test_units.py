from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np

from tests.alignment import tiny
from worker.alignment.dataset import Pair, Row
from worker.alignment.units import Units, form_units


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


def formed(rows: list[Row], objective: str, **changes: Any) -> Units:
    return form_units(rows, tiny.config(**({"objective": objective, "max_pairs_per_prompt": 1000} | changes)))


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
        assert formed(MIXED, objective) == ([(n,) for n in range(len(MIXED))], 0)
    desirable = [(n,) for n, row in enumerate(MIXED) if row.label]
    assert formed(MIXED, "sft") == (desirable, len(MIXED) - len(desirable))


def test_dpo_pairs_the_longer_side_once_and_the_shorter_in_turn() -> None:
    units, left_out = formed(MIXED, "dpo")
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
    expected = said(MIXED, formed(MIXED, "dpo").units)
    for seed in range(3):
        shuffled = random.Random(seed).sample(MIXED, len(MIXED))
        assert said(shuffled, formed(shuffled, "dpo").units) == expected


def test_trap_17_one_text_rated_both_ways_is_no_pair() -> None:
    """The same completion up and down has no gradient as a pair: another counterpart is taken, or none."""
    rows = [
        row(0, "a", True, text=7),
        row(1, "a", False, text=7),
        row(2, "a", False, text=8),
        row(3, "b", True, text=9),
    ]
    rows.append(row(4, "b", False, text=9))
    units, left_out = formed(rows, "dpo")
    assert units == [(0, 2)]
    assert left_out == 3


def test_at_most_so_many_pairs_a_prompt_and_of_them_as_many_texts_as_can_be() -> None:
    units, left_out = formed(MIXED, "dpo", max_pairs_per_prompt=4)
    prompts = Counter(MIXED[chosen].prompt_key for chosen, _ in units)
    assert prompts == {"a": 4, "b": 4}
    assert left_out == len(MIXED) - len({index for unit in units for index in unit}) == 2 + 3 + 1
    assert len({index for unit in units for index in unit if MIXED[index].prompt_key == "a"}) == 3 + 4
    assert {pair for pair in units if MIXED[pair[0]].prompt_key == "a"} < set(formed(MIXED, "dpo").units)
    rated_often = [row(n, "a", True, text=min(n, 3)) for n in range(12)] + [row(12, "a", False)]
    units, _ = formed(rated_often, "dpo", max_pairs_per_prompt=4)
    assert sorted(min(chosen, 3) for chosen, _ in units) == [0, 1, 2, 3]
    for seed in range(3):
        shuffled = random.Random(seed).sample(rated_often, len(rated_often))
        assert said(shuffled, formed(shuffled, "dpo", max_pairs_per_prompt=4).units) == said(rated_often, units)


def test_paired_holds_each_row_as_often_as_the_pairs_do() -> None:
    pairs = formed(MIXED, "dpo", max_pairs_per_prompt=6)
    for objective in ("kto", "apo_zero_unpaired"):
        paired = formed(MIXED, objective, data="paired", max_pairs_per_prompt=6)
        assert Counter(paired.units) == Counter((index,) for pair in pairs.units for index in pair)
        assert paired.num_left_out == pairs.num_left_out
    labels = paired.labels(MIXED)
    assert sum(labels) == len(labels) - sum(labels) == len(pairs.units)
    desirable = Counter((chosen,) for chosen, _ in pairs.units)
    assert Counter(formed(MIXED, "sft", data="paired", max_pairs_per_prompt=6).units) == desirable
