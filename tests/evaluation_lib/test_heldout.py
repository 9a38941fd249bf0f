from __future__ import annotations

import numpy as np
import pytest

from worker.alignment.evaluation.heldout import HeldoutRows, heldout_result
from worker.alignment.evaluation.stats import auc, bootstrap_interval, weighted_auc, weighted_mean


def naive_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    total = pairs = 0.0
    for up in scores[labels]:
        for down in scores[~labels]:
            total += 1.0 if up > down else 0.5 if up == down else 0.0
            pairs += 1
    return total / pairs


def rows(**changes: object) -> HeldoutRows:
    values: dict[str, object] = {
        "labels": np.array([True, False, True, False, True]),
        "logratios": np.array([2.0, 1.0, -1.0, -1.0, 3.0]),
        "lengths": np.array([5, 5, 9, 2, 7]),
        "prompt_keys": np.array(["a", "a", "b", "b", "c"], dtype=object),
        "roots": np.array(["a", "a", "b", "b", "c"], dtype=object),
        "kl_logratios": np.array([0.5, -0.1, 0.2]),
        "kl_roots": np.array(["a", "a", "b"], dtype=object),
    }
    return HeldoutRows(**(values | changes))  # type: ignore[arg-type]


def test_figures_by_hand() -> None:
    result = heldout_result(rows(), beta=0.1)
    assert (result.num_desirable, result.num_undesirable) == (3, 2)
    # pairs (2 vs 1, -1), (-1 vs 1, -1), (3 vs 1, -1): 2 + 0.5 + 2 of 6
    assert result.auc.value == pytest.approx(4.5 / 6)
    # prompt a: 1, prompt b: tie 0.5; c has one label only
    assert result.auc_within_prompt.value == pytest.approx(0.75)
    assert result.auc_within_prompt.n == 2
    # rewards have the label's sign for rows 1, 4, 5
    assert result.accuracy.value == pytest.approx(3 / 5)
    # lengths 5, 9, 7 against 5, 2: 0.5 + 1 + 2 + 2 of 6
    assert result.auc_length.value == pytest.approx(5.5 / 6)
    assert result.kl.value == pytest.approx(0.2)
    assert result.reward_desirable == pytest.approx(0.1 * 4 / 3)
    assert result.reward_undesirable == pytest.approx(0.0)
    assert result.auc.low is None
    assert result.accuracy.high is None  # three clusters carry no interval


def test_a_reward_of_zero_is_half_right_and_a_few_prompts_keep_within_range() -> None:
    untrained = heldout_result(rows(logratios=np.zeros(5)), beta=0.1)
    assert untrained.accuracy.value == 0.5
    keys = np.repeat(np.array([f"p{i}" for i in range(9)], dtype=object), 3)
    scores = np.tile([0.0, 1.0, 2.0], 9)
    scores[:3] = [1.5, 1.0, 2.0]  # one prompt of nine has an AUC of 0.5, the others 1
    labels = np.tile([False, True, True], 9)
    found = heldout_result(
        rows(labels=labels, logratios=scores, lengths=np.ones(27, int), prompt_keys=keys, roots=keys), beta=0.1
    ).auc_within_prompt
    assert found.value == pytest.approx(8.5 / 9)
    assert (found.high, found.n) == (1.0, 9)


def test_a_missing_class_gives_no_figure_instead_of_nan() -> None:
    result = heldout_result(rows(labels=np.ones(5, dtype=bool)), beta=0.1)
    assert result.auc.value is None
    assert result.auc_within_prompt.value is None
    assert result.reward_undesirable is None
    assert result.accuracy.value == pytest.approx(3 / 5)
    empty = np.array([], dtype=float)
    nothing = HeldoutRows(
        labels=empty.astype(bool),
        logratios=empty,
        lengths=empty.astype(np.int64),
        prompt_keys=empty.astype(object),
        roots=empty.astype(object),
        kl_logratios=empty,
        kl_roots=empty.astype(object),
    )
    result = heldout_result(nothing, beta=0.1)
    assert result.accuracy.value is None
    assert result.kl.value is None


def test_auc_equals_the_quadratic_definition_with_ties_and_weights() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores = rng.integers(0, 8, size=60).astype(float)
        labels = rng.random(60) < 0.4
        assert auc(scores, labels) == pytest.approx(naive_auc(scores, labels), abs=1e-12)
        counts = rng.integers(0, 3, size=60)
        weighted = weighted_auc(scores, labels)(counts[None].astype(float))[0]
        assert weighted == pytest.approx(naive_auc(scores.repeat(counts), labels.repeat(counts)), abs=1e-12)


def test_within_prompt_auc_removes_the_prompts_own_level() -> None:
    rng = np.random.default_rng(0)
    num, prompts = 400, np.repeat(np.arange(100), 4)
    easy = prompts < 50  # easy prompts: high rewards and mostly desirable, but nothing is told apart inside a prompt
    labels = rng.random(num) < np.where(easy, 0.8, 0.2)
    keys = prompts.astype(str).astype(object)
    result = heldout_result(
        rows(
            labels=labels,
            logratios=rng.normal(size=num) + 5 * easy,
            lengths=np.ones(num, int),
            prompt_keys=keys,
            roots=keys,
        ),
        beta=0.1,
    )
    assert result.auc.value is not None
    assert result.auc_within_prompt.value is not None
    assert result.auc.value > 0.7
    assert abs(result.auc_within_prompt.value - 0.5) < 0.1
    assert result.auc_length.value == pytest.approx(0.5)


def test_the_interval_widens_with_clusters_and_covers() -> None:
    rng = np.random.default_rng(1)
    covered, widths, row_widths = 0, [], []
    for seed in range(60):
        clusters = np.repeat(np.arange(60), 5)
        values = rng.normal(size=60)[clusters] + 0.3 * rng.normal(size=300)
        low, high = bootstrap_interval(clusters, 60, weighted_mean(values), seed=seed, num_resamples=400)
        row_low, row_high = bootstrap_interval(np.arange(300), 300, weighted_mean(values), seed=seed, num_resamples=400)
        assert low is not None
        assert high is not None
        assert row_low is not None
        assert row_high is not None
        covered += low <= 0 <= high
        widths.append(high - low)
        row_widths.append(row_high - row_low)
    assert 50 <= covered <= 60
    assert np.mean(widths) > 1.8 * np.mean(row_widths)


def test_below_five_clusters_there_is_no_interval() -> None:
    values = np.arange(4, dtype=float)
    assert bootstrap_interval(np.arange(4), 4, weighted_mean(values)) == (None, None)
    low, high = bootstrap_interval(np.arange(30), 30, weighted_mean(np.arange(30.0)))
    assert low is not None
    assert high is not None
    assert low < 14.5 < high


def test_the_kl_interval_resamples_conversations_not_pairs() -> None:
    """Five pairs of one conversation that agree are one observation: the interval is that of 40 values, not of 200."""
    level = np.random.default_rng(2).normal(0.3, 1.0, size=40)
    values, roots = np.repeat(level, 5), np.repeat(np.arange(40), 5).astype(object)
    kl = heldout_result(rows(kl_logratios=values, kl_roots=roots), beta=0.1).kl
    assert kl.value == pytest.approx(level.mean())
    assert kl.n == 200
    assert kl.low is not None
    assert kl.high is not None
    expected = 2 * 1.96 * level.std() / 40**0.5
    assert kl.high - kl.low == pytest.approx(expected, rel=0.1)
    one_conversation = heldout_result(rows(kl_logratios=values, kl_roots=np.full(200, "a", dtype=object)), beta=0.1).kl
    assert one_conversation.low is None
