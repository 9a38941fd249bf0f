from __future__ import annotations

import numpy as np
import pytest

from worker.alignment.batching import epoch_steps
from worker.alignment.dataset import IntArray


def test_trap_03_every_row_once_and_both_classes_in_every_step() -> None:
    labels = [True] * 90 + [False] * 11  # sorted by label, as a database exports them
    steps = epoch_steps(labels, batch_size=10, seed=1, epoch=0)
    assert len(steps) == 11
    assert sorted(np.concatenate(steps).tolist()) == list(range(101))
    assert {sum(not labels[i] for i in step) for step in steps} == {1}
    assert max(len(step) for step in steps) <= 10


@pytest.mark.parametrize("window", [1, 4])
def test_trap_03_rows_meet_others_in_every_epoch(window: int) -> None:
    """Not only the steps change places: what a step holds is drawn anew."""
    labels, lengths = [True] * 60 + [False] * 20, [n % 9 for n in range(80)]

    def together(epoch: int) -> set[tuple[int, int]]:
        steps = epoch_steps(labels, lengths, batch_size=8, seed=1, epoch=epoch, window=window)
        return {(a, b) for step in steps for a in step.tolist() for b in step.tolist() if a < b}

    first, second = together(0), together(1)
    assert len(first & second) < len(first) / 2
    assert sum(b - a < 8 for a, b in first) < len(first) / 2  # nor are neighbours of the file


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


@pytest.mark.parametrize("window", [3, 4, 100])
def test_buckets_gather_lengths_and_keep_the_mix(window: int) -> None:
    rng = np.random.default_rng(5)
    labels = [bool(draw < 0.6) for draw in rng.random(230)]
    lengths = [int(length) for length in rng.lognormal(4, 1, 230)]
    plain = epoch_steps(labels, lengths, batch_size=8, seed=1, epoch=2)
    steps = epoch_steps(labels, lengths, batch_size=8, seed=1, epoch=2, window=window)
    assert sorted(np.concatenate(steps).tolist()) == list(range(230))
    mixes = [sum(labels[i] for i in step) for step in steps]
    assert max(mixes) - min(mixes) <= 1
    assert {len(step) for step in steps} <= {7, 8}

    def padding(found: list[IntArray]) -> int:
        longest: list[int] = [max(lengths[i] for i in step.tolist()) for step in found]
        return sum(most * len(step) for most, step in zip(longest, found, strict=True)) - sum(lengths)

    assert padding(steps) < 0.8 * padding(plain)
    longest = [max(lengths[i] for i in step) for step in steps]
    assert longest != sorted(longest)  # no curriculum: the steps themselves are shuffled


def test_rows_stay_in_their_window_and_windows_change_with_the_epoch() -> None:
    labels, lengths = [True, False] * 32, list(range(64))
    whole = [epoch_steps(labels, lengths, batch_size=4, seed=3, epoch=epoch, window=4) for epoch in (0, 0, 1)]
    assert all(np.array_equal(a, b) for a, b in zip(whole[0], whole[1], strict=True))
    assert [step.tolist() for step in whole[0]] != [step.tolist() for step in whole[2]]
    one_window = epoch_steps(labels, lengths, batch_size=4, seed=3, epoch=0, window=16)
    assert sorted(sorted(step.tolist()) for step in one_window) == [list(range(s, s + 4)) for s in range(0, 64, 4)]
