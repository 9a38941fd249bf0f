"""Bradley-Terry on planted strengths and on real crowd votes."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from tests.conftest import SHARED_DATA
from worker.alignment.evaluation.bradley_terry import (
    Vote,
    cohen_kappa,
    fit,
    fleiss_kappa,
    self_consistency,
    vote_counts,
)


def planted(seed: int, *, prompts: int = 60, raters: int = 40, each: int = 12) -> list[Vote]:
    """Arm b is 0.6 logits stronger, the left side 0.3; prompts lean to an arm by 0.8, so their votes agree."""
    rng = np.random.default_rng(seed)
    lean = rng.normal(0, 0.8, prompts)
    votes = []
    for prompt in range(prompts):
        for _ in range(each):
            swapped = rng.random() < 0.5
            for_left = (-(0.6 + lean[prompt]) if not swapped else 0.6 + lean[prompt]) + 0.3
            tie = rng.random() < 0.2
            score = 0.5 if tie else float(rng.random() < 1 / (1 + np.exp(-for_left)))
            left, right = ("b", "a") if swapped else ("a", "b")
            votes.append(Vote(prompt=prompt, rater=int(rng.integers(raters)), left=left, right=right, score=score))
    return votes


def test_planted_strengths_and_position_are_found_and_the_interval_covers():
    truth = fit([vote for seed in range(100, 140) for vote in planted(seed)], ["a", "b"]).win_rate("b", "a").value
    assert truth is not None
    covered = 0
    for seed in range(80):
        fitted = fit(planted(seed), ["a", "b"])
        rate = fitted.win_rate("b", "a")
        assert rate.low is not None
        assert rate.high is not None
        covered += rate.low <= truth <= rate.high
        assert fitted.win_rate("a", "b").value == pytest.approx(1 - (rate.value or 0))
    assert covered >= 71
    assert fitted.left_rate.value is not None
    assert 0.51 < fitted.left_rate.value < 0.64


def test_one_sided_votes_stay_finite_and_few_clusters_give_no_interval():
    won = [Vote(prompt=i % 3, rater=i, left="a", right="b", score=1.0) for i in range(30)]
    rate = fit(won + [Vote(prompt=i % 3, rater=i, left="b", right="a", score=0.0) for i in range(30)]).win_rate(
        "a", "b"
    )
    assert rate.value is not None
    assert 0.95 < rate.value <= 1
    assert (rate.low, rate.high) == (None, None)
    with pytest.raises(ValueError, match="no votes"):
        fit([])
    with pytest.raises(ValueError, match="not compared: b"):
        fit(won, ["a", "c"])


def test_on_real_crowd_votes_clustered_errors_exceed_those_of_rows():
    with (SHARED_DATA / "llmfao" / "crowd-comparisons.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = {"left": 1.0, "tie": 0.5, "right": 0.0}
    votes = [
        Vote(
            prompt=row["prompt"], rater=row["worker"], left=row["left"], right=row["right"], score=scores[row["winner"]]
        )
        for row in rows
    ]
    fitted = fit(votes)
    clustered, by_row = (np.sqrt(np.diag(matrix)[1:-1]) for matrix in (fitted.covariance, fitted.row_covariance))
    assert np.median(clustered / by_row) > 1.5
    assert (fitted.num_prompts, fitted.num_raters, len(fitted.arms)) == (13, 124, 59)
    assert fitted.left_rate.value is not None
    assert 0.51 < fitted.left_rate.value < 0.54
    assert fleiss_kappa(vote_counts(votes)) == pytest.approx(0.29, abs=0.02)


def test_kappas_by_hand():
    # 2 items, 3 ratings each: (2,1) and (0,3); observed (1 + 3) / 6, classes 2/6 and 4/6
    assert fleiss_kappa(np.array([[2, 1], [0, 3]])) == pytest.approx((4 / 6 - 20 / 36) / (1 - 20 / 36))
    assert cohen_kappa(list("xxyy"), list("xyyy")) == pytest.approx((0.75 - 0.5) / 0.5)
    assert fleiss_kappa(np.array([[3, 0]])) is None
    assert cohen_kappa([], []) is None


def test_a_repeat_with_swapped_sides_is_the_same_opinion():
    votes = [
        Vote(prompt=1, rater="r", left="a", right="b", score=1.0),
        Vote(prompt=1, rater="r", left="b", right="a", score=0.0),
        Vote(prompt=1, rater="s", left="a", right="b", score=1.0),
        Vote(prompt=1, rater="s", left="b", right="a", score=1.0),
    ]
    found = self_consistency(votes)
    assert (found.num_repeats, found.num_same, found.share) == (2, 1, 0.5)
    assert vote_counts(votes).tolist() == [[2, 0, 0]]
