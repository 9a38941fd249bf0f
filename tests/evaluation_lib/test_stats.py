"""Intervals, exact tests and corrections: against numbers worked out by hand and against simulation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from worker.alignment.evaluation.intervals import (
    auc_estimate,
    clopper_pearson_upper,
    mean_estimate,
    mean_interval,
    wilson_interval,
)
from worker.alignment.evaluation.power import clusters_for, detectable
from worker.alignment.evaluation.significance import (
    benjamini_hochberg,
    exact_sign_test,
    fisher_greater,
    holm,
    mcnemar_exact,
    sign_flip,
)
from worker.alignment.evaluation.stats import expanded_tail


def test_few_equal_clusters_get_students_interval() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    low, high = mean_interval(values, np.arange(8))
    # mean 4.5, standard error sqrt(6 / 8), t with 7 degrees of freedom 2.3646
    assert low == pytest.approx(4.5 - 2.364624 * (6 / 8) ** 0.5, abs=1e-4)
    assert high == pytest.approx(4.5 + 2.364624 * (6 / 8) ** 0.5, abs=1e-4)


def test_no_interval_below_five_clusters_or_without_spread() -> None:
    assert mean_interval(np.arange(40.0), np.repeat(np.arange(4), 10)) == (None, None)
    assert mean_interval(np.ones(20), np.arange(20)) == (None, None)
    told = mean_estimate(np.arange(40.0), np.repeat(np.arange(4), 10))
    assert told.value == pytest.approx(19.5)
    assert (told.low, told.n) == (None, 40)
    assert mean_estimate(np.array([]), np.array([])).value is None


@pytest.mark.parametrize(("num_clusters", "num_simulated"), [(8, 400), (30, 400), (60, 300)])
def test_intervals_cover_the_truth(num_clusters: int, num_simulated: int) -> None:
    """Rows of a cluster agree; an interval that took rows for independent would cover about 70 %."""
    rng = np.random.default_rng(num_clusters)
    clusters = np.repeat(np.arange(num_clusters), 5)
    inside = 0
    for seed in range(num_simulated):
        values = rng.normal(size=num_clusters)[clusters] + 0.5 * rng.normal(size=len(clusters))
        low, high = mean_interval(values, clusters, seed=seed)
        assert low is not None
        assert high is not None
        inside += low <= 0 <= high
    assert 0.92 <= inside / num_simulated <= 0.975


@pytest.mark.parametrize("num", [6, 60])
def test_a_share_without_spread_is_not_certain_and_none_leaves_its_range(num: int) -> None:
    low, high = wilson_interval(num, num)
    same = mean_estimate(np.ones(2 * num), np.repeat(np.arange(num), 2), share=True)
    assert (same.value, same.low, same.high) == (1.0, low, high)
    near = mean_estimate(np.r_[np.ones(num - 1), 0.4], np.arange(num), share=True)
    assert near.high is not None
    assert near.high <= 1
    labels = np.tile([True, False], num)
    told_apart = auc_estimate(labels.astype(float), labels, np.repeat(np.arange(num), 2))
    assert (told_apart.value, told_apart.low, told_apart.high) == (1.0, low, high)


def test_percentiles_are_taken_further_out_the_fewer_the_clusters() -> None:
    assert expanded_tail(50) < expanded_tail(500) < 0.025
    assert expanded_tail(50) == pytest.approx(0.0212, abs=3e-4)  # Phi(-sqrt(50 / 49) * 2.0096)


def test_paired_differences_are_far_narrower_than_the_scores() -> None:
    rng = np.random.default_rng(0)
    prompt = rng.normal(size=40)
    told = mean_estimate(prompt + 0.3 + 0.05 * rng.normal(size=40) - prompt, np.arange(40))
    assert told.low is not None
    assert told.high is not None
    assert 0.25 < told.low < 0.3 < told.high < 0.35


def test_the_interval_of_an_auc_stays_within_0_and_1() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([True, False], 10)
    scores = labels + 0.45 * rng.normal(size=20)
    told = auc_estimate(scores, labels, np.repeat(np.arange(10), 2))
    assert told.value is not None
    assert told.low is not None
    assert told.high is not None
    assert told.low < told.value <= told.high <= 1
    assert auc_estimate(scores, np.ones(20, dtype=bool), np.arange(20)).value is None
    perfect = auc_estimate(labels.astype(float), labels, np.repeat(np.arange(10), 2))
    assert perfect.value == 1.0
    assert perfect.low is not None
    assert perfect.low < 0.75  # ten conversations do not prove perfection


def test_intervals_of_shares_against_published_values() -> None:
    low, high = wilson_interval(0, 10)
    assert low == 0
    assert high == pytest.approx(0.2775, abs=1e-4)
    low, high = wilson_interval(81, 263)  # Newcombe 1998, table I
    assert low == pytest.approx(0.2553, abs=1e-4)
    assert high == pytest.approx(0.3662, abs=1e-4)
    assert wilson_interval(0, 0) == (None, None)
    assert clopper_pearson_upper(81, 263) == pytest.approx(0.3676, abs=1e-4)
    assert clopper_pearson_upper(0, 200) == pytest.approx(1 - 0.025 ** (1 / 200))
    assert clopper_pearson_upper(5, 5) == 1.0


def test_corrections_by_hand() -> None:
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert benjamini_hochberg([]) == holm([]) == []


def test_exact_tests_by_hand() -> None:
    assert exact_sign_test(8, 1) == pytest.approx(2 * (1 + 9) / 2**9)
    assert exact_sign_test(0, 0) == exact_sign_test(3, 3) == 1.0
    before = np.array([True] * 10 + [False] * 6)
    after = np.array([True] * 10 + [True] * 6)
    assert mcnemar_exact(before, after) == pytest.approx(2 / 2**6)
    assert fisher_greater(4, 4, 0, 4) == pytest.approx(1 / 70)
    assert fisher_greater(3, 4, 1, 4) == pytest.approx(17 / 70)  # the lady who tastes tea
    assert fisher_greater(0, 4, 2, 4) == pytest.approx(1.0)


def test_sign_flips_of_few_clusters_are_all_tried() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert sign_flip(values) == pytest.approx(2 / 16)
    rng = np.random.default_rng(0)
    assert sign_flip(rng.normal(0.5, 1, size=60), num_flips=2000) < 0.01
    assert sign_flip(rng.normal(0.0, 1, size=60), num_flips=2000) > 0.05


def test_what_could_have_been_seen() -> None:
    values = np.random.default_rng(0).normal(0, 0.14, size=500)
    assert detectable(values) == pytest.approx(2.80 * values.std(ddof=1) / 500**0.5, rel=0.01)
    assert detectable(values[:4]) is None
    assert [clusters_for(change, 0.45) for change in (0.03, 0.05, 0.10)] == [1766, 636, 159]
    shown = clusters_for(0.1, 0.45)
    rng = np.random.default_rng(1)
    rejected = 0
    for _ in range(400):
        low, high = mean_interval(rng.normal(0.1, 0.45, size=shown)[:49], np.arange(49))
        assert low is not None
        assert high is not None
        rejected += low > 0 or high < 0
    assert rejected < 0.6 * 400  # 49 are too few for what 159 show


def test_bh_keeps_the_false_discovery_rate() -> None:
    rng = np.random.default_rng(0)
    false, total = 0, 0
    for _ in range(200):
        p = rng.random(100)
        p[:20] = rng.random(20) * 1e-3
        rejected = np.array(benjamini_hochberg(p.tolist())) < 0.1
        false += int(rejected[20:].sum())
        total += int(rejected.sum())
    assert total > 200 * 15
    assert false / total < 0.1


def test_pairs_of_fisher_sum_to_one() -> None:
    """P(X >= k) + P(X <= k - 1) = 1, the latter being the other arm's test."""
    for hits, reference_hits in combinations(range(6), 2):
        upper = fisher_greater(reference_hits, 7, hits, 9)
        lower = fisher_greater(hits + 1, 9, reference_hits - 1, 7)
        assert upper + lower == pytest.approx(1.0)
