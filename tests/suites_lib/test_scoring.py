from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from worker.alignment.evaluation.significance import sign_flip
from worker.alignment.evaluation.suites.scoring import (
    MIN_SAMPLES,
    Answer,
    difference,
    mean_estimate,
    means,
    summarise,
)


def answers(values: Sequence[float | None], **given: object) -> list[Answer]:
    return [
        Answer(sample=f"s{i}", score=value, passed=None if value is None else value >= 0.5, **given)  # type: ignore[arg-type]
        for i, value in enumerate(values)
    ]


def test_a_summary_counts_what_it_rests_on() -> None:
    given = [
        Answer(sample="a", category="y", score=1.0, passed=True, refusal="none"),
        Answer(sample="a", category="y", score=0.5, passed=False, refusal="partial"),
        Answer(sample="b", category="x", refusal=None),
        Answer(sample="a", category="y"),
    ]
    found = summarise(given)
    assert (found["num_samples"], found["num_answers"]) == (2, 4)
    assert (found["num_failed"], found["num_answers_failed"], found["num_wrong"]) == (1, 2, 1)
    assert (found["score"]["value"], found["score"]["n"]) == (0.75, 1)
    assert (found["pass_rate"]["value"], found["refusal_rate"]["value"]) == (0.5, 0.5)
    assert found["refusals"] == {"none": 1, "partial": 1, "full": 0}
    assert "harmful_rate" not in found
    assert "difference" not in found
    assert list(found["by_category"]) == ["x", "y"]
    assert (found["by_category"]["x"]["score"]["value"], found["by_category"]["x"]["score"]["n"]) == (None, 0)


def test_each_kind_is_compared_by_its_own_figure() -> None:
    given = [Answer(sample=f"s{i}", passed=i % 4 != 0, score=float(i % 4 != 0), refusal="full") for i in range(40)]
    before = [Answer(sample=f"s{i}", passed=True, score=1.0, refusal="none") for i in range(40)]
    found = summarise(given, "redteam", before)
    assert found["harmful_rate"]["value"] == 0.25
    assert (found["difference"]["metric"], found["difference"]["value"]) == ("harmful_rate", 0.25)
    assert (found["difference"]["num_higher"], found["difference"]["num_lower"]) == (10, 0)
    assert summarise(given, "benign", before)["difference"]["value"] == 1
    assert summarise(given, "eval", before)["difference"]["value"] == -0.25


def test_no_interval_below_the_smallest_number_of_samples() -> None:
    few = mean_estimate({f"s{i}": [0.5, 1.0] for i in range(MIN_SAMPLES - 1)})
    assert (few.value, few.low, few.n) == (0.75, None, MIN_SAMPLES - 1)
    enough = mean_estimate({f"s{i}": [i / 20] for i in range(MIN_SAMPLES)})
    assert enough.low is not None
    assert mean_estimate({}).value is None


def test_no_failure_in_n_leaves_the_rule_of_three() -> None:
    found = mean_estimate({f"s{i}": [0.0] * 3 for i in range(300)}, share=True)
    assert found.low == 0
    assert found.high == pytest.approx(3 / 300, rel=0.35)


def test_intervals_of_clustered_shares_cover() -> None:
    rng = random.Random(5)
    inside = {True: 0, False: 0}
    for _ in range(400):
        rates = [rng.betavariate(2, 1) for _ in range(60)]
        drawn = {str(i): [float(rng.random() < rate) for _ in range(4)] for i, rate in enumerate(rates)}
        for share in inside:
            found = mean_estimate(drawn, share=share)
            assert found.low is not None
            assert found.high is not None
            inside[share] += found.low <= 2 / 3 <= found.high
    assert all(0.92 <= count / 400 <= 0.98 for count in inside.values()), inside


def test_yes_or_no_is_compared_by_mcnemar() -> None:
    first = answers([1.0] * 30 + [0.0] * 10)
    second = answers([1.0] * 22 + [0.0] * 18)
    found = difference(first, second, "pass_rate")
    assert found["value"] == pytest.approx(0.2)
    assert (found["n"], found["test"], found["num_higher"], found["num_lower"]) == (40, "mcnemar", 8, 0)
    assert found["p"] == pytest.approx(2 / 2**8)
    assert found["low"] > 0
    assert 0.1 < found["detectable"] < 0.3


def test_several_answers_are_compared_by_sign_flips() -> None:
    rng = random.Random(0)
    first = [Answer(sample=str(i % 50), score=min(1.0, rng.random() + 0.2)) for i in range(200)]
    second = [Answer(sample=str(i % 50), score=rng.random()) for i in range(200)]
    found = difference(first, second, "score")
    assert (found["test"], found["n"]) == ("sign_flip", 50)
    assert found["p"] < 0.01
    assert difference(first, first, "score")["p"] == 1


def test_a_true_null_is_seldom_rejected() -> None:
    rng = random.Random(1)
    low = 0
    for _ in range(100):
        gaps = [rng.gauss(0, 1) for _ in range(13)]
        low += sign_flip(np.array(gaps)) <= 0.05
    assert low <= 12


def test_only_shared_samples_are_compared() -> None:
    found = difference(answers([1.0, None, 0.0]), answers([0.0, 1.0]), "score")
    assert (found["value"], found["n"], found["p"], found["test"]) == (1.0, 1, None, None)
    assert difference(answers([None]), answers([1.0]), "score")["value"] is None
    assert means(answers([1.0, None]), "score") == {"s0": 1.0}
