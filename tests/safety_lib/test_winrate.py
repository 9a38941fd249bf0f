"""Win rates: the published ones, a planted length effect, coverage, and what cannot be known."""

from __future__ import annotations

import numpy as np
import pytest

from bench.evaluation_safety import win_rate_rows
from worker.alignment.evaluation.winrate import ArmRows, win_rates


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def planted(
    seed: int, *, n: int = 300, ability: float = 0.4, slope: float = 1.5, longer: float = 0.0
) -> dict[str, ArmRows]:
    """Two arms on the same prompts; the second has ``ability`` logits at equal length and wins by being ``longer``."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 0.7, n)
    arms = {}
    for name, a, shift in (("plain", 0.0, 0.0), ("wordy", ability, longer)):
        lengths = rng.normal(shift, 300, n)
        p = sigmoid(a + slope * np.tanh(lengths / lengths.std()) + difficulty)
        arms[name] = ArmRows(
            prompts=np.arange(n), preferences=(rng.random(n) < p).astype(float), length_differences=lengths
        )
    return arms


def test_the_published_rates_are_reached():
    assert all(row.holds for row in win_rate_rows(quick=True))


def test_a_win_by_length_alone_vanishes_at_equal_length_and_is_flagged_when_far():
    found = win_rates(planted(1, ability=0.0, longer=300.0, n=2000))["wordy"]
    assert found.raw.value is not None
    assert found.controlled.value is not None
    assert found.raw.value > 0.66
    assert found.controlled.value == pytest.approx(0.5, abs=0.05)
    assert found.is_far
    even = win_rates(planted(1))["wordy"]
    assert not even.is_far
    assert even.length_shift < 0.15


def test_the_controlled_interval_covers():
    rng = np.random.default_rng(0)
    truth = float(sigmoid(0.4 + rng.normal(0, 0.7, 100_000)).mean())
    covered = 0
    for seed in range(40):
        estimate = win_rates(planted(seed, longer=100.0), num_resamples=200)["wordy"].controlled
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= truth <= estimate.high
    assert covered >= 34


def test_ties_count_half_and_little_data_gives_no_controlled_rate():
    few = ArmRows(
        prompts=np.arange(4), preferences=np.array([1, 0.5, 0.5, 0]), length_differences=np.array([1.0, 2, 3, 4])
    )
    found = win_rates({"a": few})["a"]
    assert (found.raw.value, found.raw.n, found.controlled.value) == (0.5, 4, None)
    rng = np.random.default_rng(0)
    short = ArmRows(prompts=np.arange(29), preferences=rng.random(29), length_differences=rng.normal(size=29))
    assert win_rates({"a": short})["a"].controlled.value is None
    same = ArmRows(prompts=np.arange(60), preferences=np.ones(60), length_differences=np.zeros(60))
    found = win_rates({"a": same})["a"]
    assert (found.raw.value, found.controlled.value, found.length_shift) == (1.0, None, 0.0)
    twice = ArmRows(prompts=np.zeros(2, dtype=int), preferences=np.ones(2), length_differences=np.ones(2))
    with pytest.raises(ValueError, match="two answers"):
        win_rates({"a": twice})
