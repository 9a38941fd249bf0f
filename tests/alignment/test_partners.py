from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from worker.alignment.dataset import Pair, Row
from worker.alignment.partners import kl_partners, mismatched_pair


def row(number: int, *, prompt: str = "", root: str = "", length: int = 8) -> Row:
    ids = np.asarray([number % 50, *range(length - 1)], dtype=np.int64)
    return Row(
        id=number,
        pair=Pair(np.arange(5, dtype=np.int64) + number, ids),
        label=number % 3 == 0,
        category=None,
        root=root or f"r{number}",
        prompt_key=prompt or f"p{number}",
        messages=[],
    )


def mixed(count: int) -> list[Row]:
    chance = random.Random(3)
    return [
        row(
            n,
            prompt=f"p{chance.randrange(count // 3)}",
            root=f"r{chance.randrange(count // 4)}",
            length=chance.choice([3, 9, 10, 40]),
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 17])
def test_trap_01_no_row_is_its_own_partner_whatever_the_count(count: int) -> None:
    """Rotating completions inside batches of 8 pairs row 17 with itself, and reversing an odd batch its middle."""
    partners = kl_partners([row(n) for n in range(count)])
    assert all(partner != index for index, partner in enumerate(partners))
    assert all((partner is None) == (count == 1) for partner in partners)


def test_trap_02_ratings_of_one_prompt_side_by_side_are_no_mismatch() -> None:
    rows = [row(n, prompt=f"p{n // 2}", root=f"r{n // 2}") for n in range(16)]
    partners = kl_partners(rows)
    assert all(partner is not None and partner // 2 != index // 2 for index, partner in enumerate(partners))


def test_trap_02_partners_are_always_another_prompt_and_another_root() -> None:
    rows = mixed(300)
    partners = kl_partners(rows)
    for index, partner in enumerate(partners):
        assert partner is not None
        assert rows[partner].prompt_key != rows[index].prompt_key
        assert rows[partner].root != rows[index].root
    same_bucket = sum(
        len(rows[p].pair.completion_ids).bit_length() == len(rows[i].pair.completion_ids).bit_length()
        for i, p in enumerate(partners)
        if p is not None
    )
    assert same_bucket == len(rows)


def test_partners_depend_on_the_data_only() -> None:
    rows = mixed(120)
    by_id = {rows[i].id: rows[p].id for i, p in enumerate(kl_partners(rows)) if p is not None}
    shuffled = random.Random(9).sample(rows, len(rows))
    again = {shuffled[i].id: shuffled[p].id for i, p in enumerate(kl_partners(shuffled)) if p is not None}
    assert again == by_id


def kl_pairs(rows: list[Row]) -> set[tuple[str, bytes]]:
    """What the reference must score: rows of one prompt with one partner are one pair."""
    partners = enumerate(kl_partners(rows))
    return {(rows[i].prompt_key, rows[p].pair.completion_ids.tobytes()) for i, p in partners if p is not None}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [1, 3, 20])
def test_new_rows_cost_at_most_two_mismatched_pairs_each(seed: int, count: int) -> None:
    chance = random.Random(seed)
    numbers = chance.sample(range(100_000), 300 + count)
    rows = [row(n, length=chance.choice([9, 10, 12, 20, 25])) for n in numbers]
    assert len(kl_pairs(rows) - kl_pairs(rows[:300])) <= 2 * count


def test_every_completion_serves_once_where_prompts_are_apart() -> None:
    rows = [row(n) for n in range(200)]
    assert sorted(partner for partner in kl_partners(rows) if partner is not None) == list(range(200))


def test_partners_of_equal_rows_do_not_depend_on_their_order() -> None:
    rows = mixed(60)
    rows += [replace(other, id=1000 + n, label=not other.label) for n, other in enumerate(rows[:30])]

    def by_id(rows: list[Row]) -> dict[int, bytes]:
        return {
            rows[i].id: rows[p].pair.completion_ids.tobytes() for i, p in enumerate(kl_partners(rows)) if p is not None
        }

    assert by_id(random.Random(5).sample(rows, len(rows))) == by_id(rows)


def test_a_new_row_displaces_few_partners() -> None:
    rows = mixed(400)
    before = kl_partners(rows)
    changed = 0
    for n in range(400, 420):
        after = kl_partners([*rows, row(n, length=9)])
        changed += sum(a != b for a, b in zip(before, after, strict=False))
    assert changed <= 2 * 20 + 12


def test_partner_falls_back_to_another_bucket_or_none() -> None:
    rows = [row(1, length=4), row(2, length=60), row(3, prompt="p1", length=4)]
    assert kl_partners(rows) == [1, kl_partners(rows)[1], 1]
    assert kl_partners([row(1), row(2, prompt="p1")]) == [None, None]
    assert kl_partners([row(1, root="x"), row(2, root="x")]) == [None, None]


def test_lopsided_data_stays_quick_and_valid() -> None:
    rows = [row(n, prompt="same", root=f"r{n % 7}") for n in range(10_000)] + [
        row(10_000 + n, root="r1") for n in range(3)
    ]
    began = time.process_time()
    partners = kl_partners(rows)
    assert time.process_time() - began < 5
    for index, partner in enumerate(partners):
        if rows[index].root == "r1":
            assert partner is None or rows[partner].root != "r1"
        else:
            assert partner is not None
            assert partner >= 10_000


def test_mismatched_pair_fits_the_length() -> None:
    pair: Any = mismatched_pair(row(1), row(2, length=10), max_length=12)
    assert len(pair.prompt_ids) + len(pair.completion_ids) == 12
    assert pair.prompt_ids.tolist() == [4, 5]
