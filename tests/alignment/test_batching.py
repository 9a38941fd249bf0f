from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import pytest

from worker.alignment.batching import epoch_steps, kl_partners, microbatches, mismatched_pair
from worker.alignment.dataset import Pair, Row


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
        row(n, prompt=f"p{chance.randrange(count // 3)}", root=f"r{chance.randrange(count // 4)}", length=chance.choice([3, 9, 10, 40]))
        for n in range(count)
    ]


def test_every_row_once_and_both_classes_in_every_step() -> None:
    labels = [True] * 90 + [False] * 11  # sorted by label, as a database exports them
    steps = epoch_steps(labels, batch_size=10, seed=1, epoch=0)
    assert len(steps) == 11
    assert sorted(np.concatenate(steps).tolist()) == list(range(101))
    assert {sum(not labels[i] for i in step) for step in steps} == {1}
    assert max(len(step) for step in steps) <= 10


def test_steps_are_a_function_of_seed_and_epoch() -> None:
    labels = [n % 3 == 0 for n in range(64)]

    def flat(seed: int, epoch: int) -> list[int]:
        return list(np.concatenate(epoch_steps(labels, batch_size=8, seed=seed, epoch=epoch)))

    assert flat(1, 0) == flat(1, 0)
    assert flat(1, 0) != flat(1, 1)
    assert flat(1, 0) != flat(2, 0)


@pytest.mark.parametrize("labels", [[True] * 7, [False], [True, False, True]])
def test_small_and_one_sided_data(labels: list[bool]) -> None:
    steps = epoch_steps(labels, batch_size=4, seed=0, epoch=0)
    assert sorted(i for step in steps for i in step.tolist()) == list(range(len(labels)))
    assert all(len(step) for step in steps)


def test_microbatches_keep_the_budget_and_every_item() -> None:
    lengths = [30, 5, 90, 10, 10, 200, 1]
    cuts = microbatches(lengths, token_budget=100)
    assert sorted(i for cut in cuts for i in cut.tolist()) == list(range(7))
    assert all(len(cut) == 1 or sum(lengths[i] for i in cut) <= 100 for cut in cuts)
    padded = microbatches(lengths, token_budget=100, padded=True)
    assert all(len(cut) == 1 or max(lengths[i] for i in cut) * len(cut) <= 100 for cut in padded)


def test_partners_are_always_another_prompt_and_another_root() -> None:
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


def test_ten_thousand_rows_of_one_prompt_stay_quick() -> None:
    rows = [row(n, prompt="same") for n in range(10_000)]
    began = time.process_time()
    assert set(kl_partners(rows)) == {None}
    assert time.process_time() - began < 5


def test_mismatched_pair_fits_the_length() -> None:
    pair: Any = mismatched_pair(row(1), row(2, length=10), max_length=12)
    assert len(pair.prompt_ids) + len(pair.completion_ids) == 12
    assert pair.prompt_ids.tolist() == [4, 5]
