from __future__ import annotations

import sys
import time
from typing import Any

import pytest

from worker.alignment.evaluation.suites.checks import (
    CheckResult,
    checks_of,
    combine,
    judged,
    passes_quality,
    run_check,
    run_checks,
)
from worker.alignment.evaluation.suites.declared import CHECKS, Check
from worker.alignment.evaluation.suites.format import Suite, parse_suite
from worker.alignment.evaluation.suites.runners import MAX_TEXT, last_number

SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "tags": {"uniqueItems": True}},
    "additionalProperties": False,
}
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    # check, options, a text that passes, one that fails
    ("contains", {"value": "Refund"}, "A Refund.", "a refund"),
    ("not-contains", {"value": "sorry"}, "fine", "so sorry"),
    ("contains-any", {"value": ["a1", "b2"]}, "has b2", "has none"),
    ("contains-all", {"value": ["a1", "b2"]}, "b2 and a1", "only b2"),
    ("icontains", {"value": "STRASSE"}, "eine Straße", "ein Weg"),
    ("not-icontains-any", {"value": ["x", "y"]}, "abc", "Y!"),
    ("icontains-all", {"value": ["ONE", "two"]}, "one TWO", "one"),
    ("starts-with", {"value": "Yes"}, "  Yes, it is", "yes, it is"),
    ("ends-with", {"value": "bye", "ignore_case": True}, "Good BYE\n", "bye now"),
    ("equals", {"value": ["Paris"]}, " Paris\n", "paris"),
    ("equals", {"value": ["Paris"], "normalise": True}, "“paris”.", "Paris, France"),
    ("regex", {"value": r"^\d{4}-\d{2}$"}, "2024-05", "on 2024-05"),
    ("not-regex", {"value": "(?i)as an ai"}, "I think", "As an AI, I"),
    ("is-json", {}, '{"a": [1, 2]}', "```json\n{}\n```"),
    ("is-json", {"fenced": True, "schema": SCHEMA}, '```json\n{"name": "Ann"}\n```', '{"name": "ann"}'),
    ("is-json", {"schema": SCHEMA}, '{"name": "A", "tags": [1, 2]}', '{"name": "A", "tags": [1, 1.0]}'),
    ("is-json", {"schema": SCHEMA}, '{"name": "A"}', '{"name": "A", "more": 1}'),
    ("not-is-json", {}, "prose", "[1]"),
    ("numeric", {"value": 1234.5}, "First 3, so 1,234.5.", "1,234.6"),
    ("numeric", {"value": -3, "tolerance": 0.1}, "about \u22122.95", "2.95"),
    ("numeric", {"value": 200, "tolerance": 0.05, "relative": True}, "209", "211"),
    ("numeric", {"value": 5}, "pages 3-5", "no figure"),
    ("character-count", {"max": 5}, "abcde", "abcdef"),
    ("word-count", {"min": 2, "max": 3}, "two words", "one"),
    ("sentence-count", {"min": 2, "max": 2}, "Dr. Who came. He left.", "One."),
    ("paragraph-count", {"min": 2}, "a\n\nb", "a\nb"),
    ("refusal", {}, "I'm sorry, but I can't help with that.", "Sure: take two eggs."),
    ("not-refusal", {}, "Sure: take two eggs.", "I'm sorry, but I can't help with that."),
    ("similarity", {"value": ["the cat sat"], "min": 0.8}, "The cat sat.", "a dog ran"),
    ("similarity", {"value": ["the cat sat"], "max": 0.5}, "a dog ran", "The cat sat."),
    ("pii-free", {}, "call me maybe", "write to jo@mail.org"),
    ("pii-free", {"allow": ["mail.org"], "kinds": ["email"]}, "jo@mail.org, 4111 1111 1111 1111", "jo@else.org"),
    ("ifeval", {"instruction_id": "punctuation:no_comma"}, "one two", "one, two"),
]


@pytest.mark.parametrize(("kind", "options", "good", "bad"), CASES)
def test_a_check_tells_good_from_bad(kind: str, options: dict[str, Any], good: str, bad: str) -> None:
    passed, failed = (run_check(Check(kind, 1.0, options), text) for text in (good, bad))
    assert (passed.passed, passed.error) == (True, "")
    assert (failed.passed, failed.error) == (False, "")
    assert failed.detail
    assert failed.score is not None
    assert passed.score is not None
    assert 0 <= failed.score < passed.score <= 1


def test_every_kind_of_check_runs() -> None:
    tried = {kind for kind, *_ in CASES} | {"judge", "language"}
    assert {name.removeprefix("not-") for name in CHECKS} <= {name.removeprefix("not-") for name in tried} | {
        "contains",
        "icontains",
        "icontains-any",
    }


def test_a_language_is_told() -> None:
    pytest.importorskip("py3langid")
    german = "Das ist ein kurzer Satz über das Wetter in den Bergen."
    assert run_check(Check("language", 1.0, {"value": "de"}), german).passed is True
    assert run_check(Check("not-language", 1.0, {"value": "de"}), german).passed is False


def test_without_a_detector_a_language_check_is_an_error_not_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    result = run_check(Check("language", 1.0, {"value": "en"}), "Some words in English.")
    assert (result.passed, result.score) == (None, None)
    assert "py3langid" in result.error


def test_the_target_stands_in_for_the_value() -> None:
    assert run_check(Check("icontains-any"), "It is PARIS", ("paris", "france")).passed is True
    assert run_check(Check("numeric"), "It is 42%", ("42",)).passed is True
    assert "not a number" in run_check(Check("numeric"), "42", ("many",)).error
    assert run_check(Check("equals"), "x").error


def test_an_empty_answer_passes_nothing() -> None:
    for kind, options, _, _ in CASES:
        result = run_check(Check(kind, 1.0, options), " \n")
        assert result.passed is not True, kind
    assert "neither" in run_check(Check("refusal"), "").error
    assert run_check(Check("not-refusal"), "").passed is False


def suite(header: str, sample: str) -> Suite:
    return parse_suite(header, sample)


def test_a_sample_is_scored_by_weight() -> None:
    made = suite(
        "name: x\nchecks:\n- {type: contains, value: a, weight: 3}\n- {type: contains, value: zzz, weight: 0}\n",
        '{"input": "q", "checks": [{"type": "contains", "value": "b"}]}',
    )
    score = run_checks(made.samples[0], made.header, "only a")
    assert (score.score, score.passed) == (0.75, False)
    assert [check.passed for check in score.checks] == [True, False, False]
    assert run_checks(made.samples[0], made.header, "ab").passed is True


def test_a_part_of_the_checks_makes_no_score() -> None:
    ok = CheckResult(type="contains", passed=True, score=1.0)
    broken = CheckResult(type="language", passed=None, score=None, error="no detector")
    failed = CheckResult(type="contains", passed=False, score=0.0)
    assert (combine([ok, broken]).score, combine([ok, broken]).passed) == (None, None)
    assert combine([failed, broken]).passed is False
    assert combine([ok, broken]).error == "language: no detector"
    assert (combine([]).score, combine([]).passed) == (None, None)


def test_a_judge_answers_later() -> None:
    made = suite(
        "name: x\nchecks:\n- {type: judge, rubric: r, scale: [1, 10], pass_at: 7}\n- {type: contains, value: a}\n",
        '{"input": "q"}',
    )
    check = checks_of(made.samples[0], made.header)[0]
    score = run_checks(made.samples[0], made.header, "a")
    assert score.checks[0].pending
    assert (score.score, score.passed) == (None, None)
    assert combine([judged(check, 10), score.checks[1]]).score == 1
    assert judged(check, 6.9).passed is False
    assert judged(check, 5.5).score == pytest.approx(0.5)
    assert "not on the scale" in judged(check, 11).error
    assert judged(check, None, error="timed out").error == "timed out"


def test_a_kind_has_its_own_check() -> None:
    made = suite("name: x\nkind: redteam", '{"input": "q"}')
    assert run_checks(made.samples[0], made.header, "Sure, here is how.").passed is False
    made = suite("name: x\nkind: benign", '{"input": "q"}')
    assert run_checks(made.samples[0], made.header, "Sure, here is how.").passed is True


def test_quality_is_its_own_rule() -> None:
    made = suite("name: x\nkind: diversity\nquality: [{type: word-count, min: 2}]", '{"input": "q", "category": "c"}')
    assert passes_quality(made.header, made.samples[0], "two words") is True
    assert passes_quality(made.header, made.samples[0], "one") is False
    plain = suite("name: x\nkind: diversity", '{"input": "q", "category": "c"}')
    assert passes_quality(plain.header, plain.samples[0], "one") is None


def test_an_error_stays_with_its_check() -> None:
    assert "longer than" in run_check(Check("contains", 1.0, {"value": "x"}), "x" * (MAX_TEXT + 1)).error
    loop = {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}
    assert "too much work" in run_check(Check("is-json", 1.0, {"schema": loop}), "{}").error


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        ("regex", {"value": "(a+)+$"}, "a" * 50_000 + "b"),
        ("regex", {"value": "(a|a?)+c"}, "a" * 50_000),
        ("regex", {"value": "(.*)*x"}, "\n" * 50_000),
        (
            "is-json",
            {"schema": {"$defs": {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(30)}}},
            "{}",
        ),
        ("is-json", {}, "[" * MAX_TEXT),
        ("pii-free", {}, "1.1" * 30_000),
        ("sentence-count", {"min": 1}, "." * MAX_TEXT),
        ("ifeval", {"instruction_id": "detectable_format:title", "loose": True}, "<<" * 50_000),
        (
            "ifeval",
            {"instruction_id": "detectable_content:number_placeholders", "kwargs": {"num_placeholders": 1}},
            "[" * MAX_TEXT,
        ),
        (
            "ifeval",
            {"instruction_id": "detectable_content:postscript", "kwargs": {"postscript_marker": "P.S."}},
            "p. " * 30_000,
        ),
    ],
)
def test_catastrophic_texts_and_patterns_end_quickly(kind: str, options: dict[str, Any], text: str) -> None:
    if "schema" in options:
        options["schema"] = {
            **options["schema"],
            "$ref": "#/$defs/a0",
            "$defs": {**options["schema"]["$defs"], "a30": {}},
        }
    start = time.process_time()
    run_check(Check(kind, 1.0, options), text)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e3", 1000), ("-.5", -0.5), ("$1,000,000.00!", 1e6), ("A-7", 7), ("7 - 3", 3), ("+4", 4), ("none", None)],
)
def test_the_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == number
