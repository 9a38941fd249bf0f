"""The figures of monitoring against hand-worked numbers and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from worker.alignment.evaluation.monitoring import (
    adjusted,
    clearly_higher,
    cusum,
    cusum_threshold,
    odd_raters,
    population_stability,
    wilson,
)


def test_wilson_by_hand() -> None:
    """10 of 50: centre (0.2 + 3.8415/100) / (1 + 3.8415/50) = 0.22142, half 0.10902."""
    rate = wilson(10, 50)
    assert (rate.value, rate.n) == (0.2, 50)
    assert rate.low == pytest.approx(0.11244, abs=2e-5)
    assert rate.high == pytest.approx(0.33037, abs=2e-5)
    assert wilson(0, 0).value is None
    assert wilson(0, 300).high == pytest.approx(0.01264, abs=1e-4)


def test_a_baseline_that_rounds_to_all_or_none_still_has_a_threshold() -> None:
    assert cusum([True] * 3, 0.9997).threshold > 0
    assert cusum([False] * 3, 0.0002).alarm_at is None


def test_the_odds_ratio_is_that_within_the_categories() -> None:
    """Simpson's paradox: within each category the odds are the same, pooled they are not."""
    before = {"easy": (10, 100), "hard": (200, 400)}
    now = {"easy": (40, 400), "hard": (50, 100)}
    found = adjusted(now, before)
    assert found.odds_ratio == pytest.approx(1.0)
    assert found.standardised == pytest.approx(210 / 500)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1 < found.high
    assert found.psi is not None
    assert found.psi > 0.2
    assert adjusted({"a": (1, 2)}, {"b": (1, 2)}).odds_ratio is None


def test_mantel_haenszel_by_hand() -> None:
    """One table a, b, c, d = 30, 70, 20, 80: OR = 30 * 80 / (70 * 20); its log's variance is 1/30 + 1/70 + 1/20 + 1/80."""
    found = adjusted({"x": (30, 100)}, {"x": (20, 100)})
    assert found.odds_ratio == pytest.approx(2400 / 1400)
    half = 1.959964 * (1 / 30 + 1 / 70 + 1 / 20 + 1 / 80) ** 0.5
    assert found.high == pytest.approx(2400 / 1400 * np.exp(half), rel=1e-5)


def test_a_mix_that_did_not_move_has_no_psi() -> None:
    assert population_stability({"a": 50, "b": 50}, {"a": 50, "b": 50}) == 0
    assert population_stability({}, {"a": 1}) is None


@pytest.mark.parametrize("rate", [0.05, 0.13, 0.4])
def test_false_alarms_come_once_in_ten_thousand_votes(rate: float) -> None:
    """Run lengths of other random numbers than the threshold was found with."""
    threshold, rng = cusum_threshold(rate), np.random.default_rng(7)
    worse = min(1.5 * rate, (1 + rate) / 2)
    up, down = np.log(worse / rate), np.log((1 - worse) / (1 - rate))
    level, passages = np.zeros(500), 0
    for _ in range(10_000):
        level = np.maximum(0, level + np.where(rng.random(500) < rate, up, down))
        passages += int((level >= threshold).sum())
        level[level >= threshold] = 0
    assert 500 * 10_000 / passages == pytest.approx(10_000, rel=0.25)


def test_a_rate_that_doubles_is_seen_and_one_that_stays_is_not() -> None:
    calm = [number % 10 == 0 for number in range(2000)]
    worse = [number % 5 == 0 for number in range(1000)]
    assert cusum(calm, 0.1).alarm_at is None
    found = cusum([*calm, *worse], 0.1)
    assert found.alarm_at is not None
    assert 2000 < found.alarm_at < 2400
    assert found.path[1999] < found.threshold <= found.path[found.alarm_at - 1]
    with pytest.raises(ValueError, match="between 0 and 1"):
        cusum(calm, 0.0)


def test_a_share_is_higher_only_beyond_chance() -> None:
    assert clearly_higher((40, 400), (4, 400), rise=0.02, factor=2)
    assert not clearly_higher((8, 400), (4, 400), rise=0.005, factor=2)
    assert not clearly_higher((40, 400), (4, 400), rise=0.2)
    assert not clearly_higher((40, 400), (0, 0), rise=0.0)


def test_raters_who_stand_out() -> None:
    usual = {f"r{n}": (3, 30, 2) for n in range(10)}
    odd = odd_raters({**usual, "angry": (28, 30, 3), "fast": (10, 100, 60), "few": (5, 5, 1)})
    assert [rater.rater for rater in odd] == ["angry", "fast"]
    assert odd[0].why.startswith("93 % down-votes")
    assert odd[1].why == "60 votes in one minute"
    assert odd_raters(usual) == []
