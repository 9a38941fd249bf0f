"""What becomes an alarm, at which look, and in which words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from worker.alignment.evaluation.alarms import alarms_of, is_style_shift
from worker.alignment.events import Alarm, CategoryResult, Contrast, DiversityResult, DomainResult


def contrast(reference: float, policy: float, low: float | None = None, high: float | None = None) -> Contrast:
    return Contrast(reference=reference, policy=policy, change=policy - reference, low=low, high=high)


def category(name: str, q: float | None, metrics: dict[str, Contrast], *, open_ended: bool = True) -> CategoryResult:
    return CategoryResult(category=name, num_prompts=8, metrics=metrics, open_ended=open_ended, p=q, q=q)


def result(**changes: Any) -> DiversityResult:
    values: dict[str, Any] = {
        "num_categories": 50,
        "num_prompts": 100,
        "samples_per_prompt": 4,
        "overall": {},
        "categories": [],
    }
    return DiversityResult(**values | changes)


def told(now: DiversityResult, before: DiversityResult | None = None) -> list[tuple[str, str, str]]:
    return [(alarm.kind, alarm.level, alarm.subject) for alarm in alarms_of(now, before)]


def test_a_category_is_watched_first_and_an_alarm_when_it_holds() -> None:
    collapsed = result(categories=[category("poems", 0.01, {"similarity_normalised": contrast(0.2, 0.31)})])
    assert told(collapsed) == [("category", "watch", "poems")]
    assert told(collapsed, result()) == [("category", "watch", "poems")]
    assert told(collapsed, collapsed) == [("category", "alarm", "poems")]
    assert told(result(), collapsed) == []
    alarm = alarms_of(collapsed, collapsed)[0]
    assert alarm.text == (
        "Answers in poems became more alike: similarity 0.20 \u2192 0.31 (q = 0.010, Benjamini\u2013Hochberg), "
        "at two checkpoints in a row."
    )
    assert (alarm.metric, alarm.q) == ("similarity_normalised", 0.01)
    assert alarm.change == pytest.approx(0.11)


@pytest.mark.parametrize(
    ("q", "policy", "open_ended"),
    [(0.05, 0.4, True), (None, 0.4, True), (0.01, 0.249, True), (0.01, 0.4, False)],
    ids=["not significant", "not tested", "within the margin", "closed form"],
)
def test_no_watch(q: float | None, policy: float, open_ended: bool) -> None:
    found = category("sums", q, {"similarity_normalised": contrast(0.2, policy)}, open_ended=open_ended)
    assert told(result(categories=[found])) == []


def test_fewer_different_answers_count_as_well() -> None:
    changes = {"similarity_normalised": contrast(0.2, 0.22), "distinct_k_gated": contrast(4.0, 3.1)}
    found = alarms_of(result(categories=[category("poems", 0.01, changes)]), None)
    assert [(alarm.metric, alarm.level) for alarm in found] == [("distinct_k_gated", "watch")]
    assert "4.0 \u2192 3.1" in found[0].text
    changes["distinct_k_gated"] = contrast(4.0, 3.3)  # 17.5 % fewer
    assert told(result(categories=[category("poems", 0.01, changes)])) == []


def test_domains_and_the_whole() -> None:
    domain = DomainResult(
        domain="letters", num_categories=5, num_prompts=10, change=contrast(0.2, 0.3), p=0.0001, p_holm=0.002
    )
    overall = {"similarity_normalised": contrast(0.2, 0.26, 0.02, 0.1)}
    found = told(result(domains=[domain], overall=overall), result(domains=[domain]))
    assert found == [("domain", "alarm", "letters"), ("global", "watch", "")]
    likely = replace(domain, p_holm=0.02)  # both looks share one draw of the reference
    assert told(result(domains=[likely]), result(domains=[likely])) == []
    for weak in (contrast(0.2, 0.26, -0.01, 0.1), contrast(0.2, 0.24, 0.02, 0.06), contrast(0.2, 0.26)):
        assert told(result(overall={"similarity_normalised": weak})) == []


def sentinel(metric: str, change: Contrast, **changes: Any) -> list[Alarm]:
    return alarms_of(result(overall={metric: change}, **changes), None)


def test_loops_are_critical_at_once() -> None:
    found = sentinel("loop_rate", contrast(0.01, 0.2, 0.12, 0.26))
    assert [(alarm.kind, alarm.level) for alarm in found] == [("loops", "critical")]
    assert found[0].text == (
        "20.0\u202f% of the answers repeat themselves, 1.0\u202f% before training, +19.0 points [+12.0, +26.0]."
    )
    assert sentinel("loop_rate", contrast(0.01, 0.029, 0.012, 0.026)) == []  # not three times as many
    assert sentinel("loop_rate", contrast(0.0, 0.009, 0.004, 0.014)) == []  # under 1 %
    assert sentinel("loop_rate", contrast(0.01, 0.06, 0.005, 0.095)) == []  # 95 % hold, 99 % do not


def test_cut_off_answers_must_double_and_rise_by_two_points() -> None:
    assert [a.kind for a in sentinel("truncated_share", contrast(0.05, 0.11, 0.03, 0.09))] == ["truncation"]
    assert sentinel("truncated_share", contrast(0.05, 0.09, 0.03, 0.05)) == []
    assert sentinel("truncated_share", contrast(0.001, 0.011, 0.008, 0.012)) == []


def test_refusals_must_rise_by_five_points() -> None:
    assert [a.kind for a in sentinel("refusal_share", contrast(0.3, 0.36, 0.03, 0.09))] == ["refusals"]
    assert sentinel("refusal_share", contrast(0.3, 0.34, 0.03, 0.05)) == []


@pytest.mark.parametrize(("num_categories", "num_prompts"), [(50, 100), (3, 6), (1, 2)])
def test_a_model_that_only_returns_the_end_token_is_critical(num_categories: int, num_prompts: int) -> None:
    """No interval can be had from values that do not vary, or from so few categories: an exact test decides."""
    found = sentinel("empty_share", contrast(0.0, 1.0), num_categories=num_categories, num_prompts=num_prompts)
    assert [(alarm.kind, alarm.level) for alarm in found] == [("empty", "critical")]


def test_a_single_empty_answer_of_few_is_chance() -> None:
    one_of_24 = contrast(0.0, 1 / 24)
    assert sentinel("empty_share", one_of_24, num_categories=3, num_prompts=6) == []
    assert sentinel("loop_rate", one_of_24, num_categories=3, num_prompts=6) == []


def test_critical_ones_come_first() -> None:
    overall = {"similarity_normalised": contrast(0.2, 0.3, 0.05, 0.15), "empty_share": contrast(0, 0.5, 0.4, 0.6)}
    assert [kind for kind, *_ in told(result(overall=overall))] == ["empty", "global"]


def test_a_style_that_spread_is_told_as_such() -> None:
    raw, still = contrast(0.3, 0.5, 0.18, 0.22), contrast(0.2, 0.21, -0.01, 0.03)
    assert is_style_shift(result(overall={"similarity": raw, "similarity_normalised": still}))
    collapsed = contrast(0.2, 0.5, 0.2, 0.4)
    assert not is_style_shift(result(overall={"similarity": raw, "similarity_normalised": collapsed}))
    assert not is_style_shift(result(overall={"similarity": contrast(0.3, 0.31, 0.0, 0.02)}))
