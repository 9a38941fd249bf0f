from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from worker.alignment.evaluation.contrasts import MARGINS, Measure, contrast, holm
from worker.alignment.evaluation.decision import decide
from worker.alignment.evaluation.intervals import clopper_pearson_upper
from worker.alignment.evaluation.paired import clusters_needed, paired_difference
from worker.alignment.evaluation.student import t_quantile, t_tail


def measure(scores: dict[str, Any], margin: float | None = None, name: str = "support-bot", **changes: Any) -> Measure:
    values = {arm: [dict(enumerate_keys(seed)) for seed in seeds] for arm, seeds in scores.items()}
    return Measure(key=name, name=name, unit=changes.pop("unit", "points"), scores=values, margin=margin, **changes)


def enumerate_keys(values: Any) -> Any:
    return ((f"u{index:04d}", float(value)) for index, value in enumerate(values))


@pytest.mark.parametrize(
    ("p", "df", "value"), [(0.975, 1, 12.7062047), (0.975, 10, 2.2281389), (0.95, 30, 1.6972609), (0.8, 5, 0.9195438)]
)
def test_quantiles_of_student_are_those_of_the_tables(p: float, df: int, value: float) -> None:
    assert t_quantile(p, df) == pytest.approx(value, abs=1e-6)
    assert t_tail(value, df) == pytest.approx(1 - p, abs=1e-8)
    assert t_tail(-value, df) == pytest.approx(p, abs=1e-8)


def test_a_difference_worked_by_hand() -> None:
    # 12 units in 12 clusters: eight differ by 0, four by 1. Mean 1/3, sum of squares 8/9 + 16/9 = 8/3,
    # standard error sqrt(12/11 * 8/3) / 12 = 0.1421338, t(11, 0.975) = 2.2009852.
    found = paired_difference([dict(enumerate_keys([1] * 4 + [0] * 8))], [dict(enumerate_keys([0] * 12))])
    assert found.value == pytest.approx(1 / 3)
    assert found.standard_error == pytest.approx(0.1421338, abs=1e-7)
    assert found.low == pytest.approx(1 / 3 - 2.2009852 * 0.1421338, abs=1e-6)
    assert found.high == pytest.approx(1 / 3 + 2.2009852 * 0.1421338, abs=1e-6)
    assert found.detectable == pytest.approx((2.2009852 + 0.8755300) * 0.1421338, abs=1e-5)
    assert found.p == pytest.approx(2 * t_tail(2.3452079, 11), abs=1e-6)
    assert clusters_needed(found, 0.1) == math.ceil(12 * (2.801585 * 0.1421338 / 0.1) ** 2)


def test_units_of_one_cluster_count_as_one() -> None:
    values = [0.2, 0.9, 0.4, 0.1, 0.6, 0.3, 0.7, 0.8, 0.5, 0.0, 1.0, 0.35]
    one = paired_difference([dict(enumerate_keys(values))], [dict(enumerate_keys([0.0] * 12))])
    doubled = {f"{unit}{copy}": value for unit, value in enumerate_keys(values) for copy in "ab"}
    clusters = {unit: unit[:-1] for unit in doubled}
    two = paired_difference([doubled], [dict.fromkeys(doubled, 0.0)], clusters)
    assert two.num_clusters == one.num_clusters == 12
    assert two.standard_error == pytest.approx(one.standard_error or 0)
    free = paired_difference([doubled], [dict.fromkeys(doubled, 0.0)])
    assert (free.standard_error or 0) < 0.8 * (one.standard_error or 0)


def test_seeds_are_averaged_and_their_spread_is_told() -> None:
    base = np.linspace(0, 0.5, 20)
    found = paired_difference(
        [dict(enumerate_keys(base + shift)) for shift in (0.0, 0.1, 0.2)], [dict(enumerate_keys(base))] * 3
    )
    assert found.value == pytest.approx(0.1)
    assert found.seed_sd == pytest.approx(0.1)
    assert found.within_seeds
    assert paired_difference([dict(enumerate_keys(base))], [dict(enumerate_keys(base))]).seed_sd is None


def test_only_units_that_all_scored_are_compared_and_few_clusters_give_no_interval() -> None:
    one = {f"u{index}": 1.0 for index in range(9)} | {"mine": 5.0}
    two = {f"u{index}": 0.5 for index in range(9)} | {"yours": 7.0}
    found = paired_difference([one], [two])
    assert (found.value, found.num_units, found.low, found.p) == (0.5, 9, None, None)
    assert paired_difference([one], [{"other": 1.0}]).value is None
    assert paired_difference([], [two]).value is None


def test_arms_that_agree_everywhere_still_have_an_interval() -> None:
    same = dict(enumerate_keys([1.0] * 300))
    found = paired_difference([same], [same])
    assert found.value == 0
    assert found.high == pytest.approx(3 / 300)
    assert found.low == pytest.approx(-3 / 300)


@pytest.mark.parametrize(("num", "events"), [(300, 1), (300, 2), (150, 3), (400, 9)])
def test_rare_events_reach_as_far_as_an_exact_bound_does(num: int, events: int) -> None:
    found = paired_difference(
        [dict(enumerate_keys([1.0] * events + [0.0] * (num - events)))], [dict(enumerate_keys([0.0] * num))]
    )
    assert found.high is not None
    assert found.high == pytest.approx(clopper_pearson_upper(events, num), rel=0.06)
    none = paired_difference([dict(enumerate_keys([0.0] * num))], [dict(enumerate_keys([0.0] * num))])
    assert none.high is not None
    assert none.high < found.high  # as harmless as no event at all it is not


def test_holm_counts_tests_that_could_not_be_made() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, None, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06)]
    assert holm([None]) == [None]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def arms(rng: np.random.Generator, kto: float, dpo: float, n: int = 400) -> dict[str, Any]:
    level = rng.normal(0.6, 0.2, n)
    return {"kto_all": [level + rng.normal(kto, 0.2, n)], "dpo": [level + rng.normal(dpo, 0.2, n)]}


@pytest.mark.parametrize(
    ("primary", "guard", "verdict"),
    [
        (0.08, 0.0, "better"),
        (0.0, 0.0, "no_evidence"),
        (-0.08, 0.0, "worse"),
        (0.08, -0.2, "guard_failed"),
        (0.0, -0.2, "guard_failed"),
    ],
)
def test_the_verdict_needs_the_primary_and_every_guard(primary: float, guard: float, verdict: str) -> None:
    rng = np.random.default_rng(3)
    decision = decide(
        measure(arms(rng, primary, 0.0)),
        [measure(arms(rng, guard, 0.0), margin=MARGINS["diversity"], name="diversity", unit="similarity")],
    )
    assert decision.verdict == verdict
    assert decision.contrasts[0].guards[0].state == ("fail" if guard < 0 else "pass")
    assert "wins" not in decision.headline + decision.detail


def test_harm_is_told_also_where_the_primary_has_too_few_prompts() -> None:
    rng = np.random.default_rng(3)
    few = {"kto_all": [[0.5] * 5], "dpo": [[0.5] * 5]}
    decision = decide(measure(few), [measure(arms(rng, -0.2, 0.0), margin=0.01, name="safety")])
    assert decision.verdict == "guard_failed"
    assert decision.headline == "KTO is worse than DPO on safety."
    assert "no evidence of a difference" not in decision.detail
    assert "Support-bot +0.0" not in decision.detail
    assert "no interval from 5 prompts" in decision.detail


def test_no_difference_says_what_could_have_been_seen() -> None:
    decision = decide(measure(arms(np.random.default_rng(0), 0.0, 0.0)), [])
    detectable = decision.contrasts[0].primary.detectable
    assert detectable is not None
    words = f"no evidence of a difference (we could have seen \u2265\u00a0{100 * detectable:.1f} points)"
    assert decision.headline == f"KTO and DPO on support-bot: {words}."


def test_a_gain_whose_guard_is_too_small_is_not_yet_a_decision() -> None:
    rng = np.random.default_rng(1)
    guard = measure(arms(rng, 0.0, 0.0, 40), margin=0.01, name="Harmful requests refused")
    decision = decide(measure(arms(rng, 0.1, 0.0)), [guard])
    found = decision.contrasts[0].guards[0]
    assert (decision.verdict, found.state) == ("not_enough", "missing")
    assert (found.num_needed or 0) > 40
    assert "but it is not shown that it is not worse on Harmful requests refused" in decision.headline
    assert f"needs about {found.num_needed:,} prompts, there are 40" in decision.detail


def test_without_both_arms_or_with_few_prompts_there_is_no_verdict() -> None:
    rng = np.random.default_rng(1)
    missing = decide(measure({"kto_all": arms(rng, 0, 0)["kto_all"]}), [])
    assert (missing.verdict, len(missing.contrasts)) == ("not_enough", 1)
    assert "was not measured for both KTO and DPO" in missing.headline
    few = decide(measure(arms(rng, 0.3, 0.0, 6)), [])
    assert few.verdict == "not_enough"
    assert "6 prompts" in few.headline


def test_the_gain_of_ratings_that_dpo_cannot_use_is_named() -> None:
    rng = np.random.default_rng(5)
    found = arms(rng, 0.1, 0.0)
    found["kto_paired"] = [found["dpo"][0] + rng.normal(0, 0.1, 400)]
    found["reference"] = [found["dpo"][0] - 0.1 + rng.normal(0, 0.1, 400)]
    decision = decide(measure(found), [])
    assert [(item.first, item.second) for item in decision.contrasts] == [
        ("kto_all", "dpo"),
        ("kto_paired", "dpo"),
        ("kto_all", "kto_paired"),
        ("dpo", "reference"),
    ]
    assert "Ratings that DPO cannot use add to it" in decision.detail
    assert decision.contrasts[3].verdict == "better"
    assert decision.to_json()["contrasts"][0]["primary"]["unit"] == "points"


def test_a_comparison_of_equals_rarely_finds_a_better_one() -> None:
    rng = np.random.default_rng(11)
    found = 0
    for _ in range(400):
        primary = measure(arms(rng, 0.0, 0.0, 120))
        guards = [measure(arms(rng, 0.0, 0.0, 120), margin=0.2, name=str(number)) for number in range(2)]
        found += contrast(primary, guards, "kto_all", "dpo").verdict in {"better", "worse", "guard_failed"}
    assert found <= 0.05 * 400 + 2 * math.sqrt(400 * 0.05 * 0.95)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(12)
    held = 0
    for _ in range(600):
        scores = rng.binomial(1, [0.7, 0.6], size=(60, 4, 2)).mean(1)
        found = paired_difference([dict(enumerate_keys(scores[:, 0]))], [dict(enumerate_keys(scores[:, 1]))])
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.1 <= found.high
    assert 0.93 <= held / 600 <= 0.97
