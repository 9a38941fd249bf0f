from __future__ import annotations

import numpy as np
import pytest

from worker.alignment.batching import epoch_steps, microbatches


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
