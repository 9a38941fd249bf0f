from __future__ import annotations

from typing import Any

import pytest

from app.models import Evaluation, EvaluationAlarm, GatePolicy
from app.registry.gates import Evidence, Gate, SuiteEvidence, blocking, gates_of, shown_beyond, summary_of
from tests.evaluations.support import contrast, estimate, heldout, metrics


def effect(value: float, half: float, margin: float | None = None) -> dict[str, Any]:
    return {"name": "tasks", "unit": "points", "margin": margin} | estimate(value, value - half, value + half)


def decided(verdict: str, primary: dict[str, Any], *guards: dict[str, Any]) -> dict[str, Any]:
    return {"verdict": verdict, "headline": "As computed.", "detail": "", "contrasts": [{"primary": primary, "guards": list(guards)}]}  # fmt: skip


BETTER = decided("better", effect(0.04, 0.02), effect(0.0, 0.01, 0.01))


def suite(kind: str, value: float, half: float | None, **changes: Any) -> SuiteEvidence:
    low, high = (None, None) if half is None else (value - half, value + half)
    return SuiteEvidence(name=f"{kind}-1", kind=kind, num_samples=400, difference=estimate(value, low, high, 400), **changes)  # fmt: skip


SOUND = (suite("redteam", 0.0, 0.005), suite("benign", 0.0, 0.01), suite("eval", 0.01, 0.02))


def evidence(**changes: Any) -> Evidence:
    held = changes.pop("held", None) or heldout()
    overall = changes.pop("overall", None) or metrics()
    evaluation = Evaluation(heldout=held, diversity={"overall": overall})
    values: dict[str, Any] = {"evaluation": evaluation, "decision": BETTER, "suites": SOUND}
    return Evidence(**(values | changes))


def gate(key: str, **changes: Any) -> Gate:
    return {gate.key: gate for gate in gates_of(evidence(**changes))}[key]


def alarm(level: str, resolution: str = "") -> EvaluationAlarm:
    return EvaluationAlarm(kind="loops", level=level, resolution=resolution, data={"text": "Loops rose to 9.0 %."})


def test_a_sound_checkpoint_passes_all() -> None:
    gates = gates_of(evidence())
    assert {gate.state for gate in gates} == {"pass"}
    assert summary_of(gates) == "6 of 6 gates pass"


def test_without_evidence_nothing_passes_and_nothing_blocks() -> None:
    gates = gates_of(Evidence())
    assert {gate.state for gate in gates} == {"missing"}
    assert summary_of(gates) == "6 of 6 gates lack evidence"
    assert blocking(gates) == []


def test_the_policy_makes_missing_evidence_block_and_moves_margins() -> None:
    policy = GatePolicy(blocking_when_missing=["safety"], thresholds={"over_refusal": 0.10})
    found = evidence(suites=(suite("benign", 0.05, 0.02),))
    assert [gate.key for gate in blocking(gates_of(found, policy))] == ["safety"]
    assert summary_of(gates_of(found, policy)) == "1 of 6 gates blocks for want of evidence"
    states = {gate.key: gate.state for gate in gates_of(found, policy)}
    assert (states["over_refusal"], states["safety"], states["regression"]) == ("pass", "missing", "missing")
    assert {gate.key: gate.state for gate in gates_of(found)}["over_refusal"] == "fail"


@pytest.mark.parametrize(
    ("auc", "state"),
    [
        (estimate(0.6, 0.51, 0.69), "pass"),
        (estimate(0.6, 0.5, 0.7), "missing"),
        (estimate(0.45, 0.38, 0.52), "missing"),
        (estimate(0.45, 0.405, 0.495), "missing"),  # below 0.5, but at the level of six gates up to 0.505
        (estimate(0.4, 0.31, 0.48), "fail"),
        (estimate(0.9, None, None, 7), "missing"),
        (estimate(None), "missing"),
    ],
)
def test_reward_goes_by_the_interval(auc: dict[str, Any], state: str) -> None:
    assert gate("reward", held=heldout(auc_within_prompt=auc)).state == state


def test_the_reward_gate_says_how_many_prompts_would_do_and_what_length_does() -> None:
    found = gate("reward", held=heldout(auc_within_prompt=estimate(0.55, 0.45, 0.65, 100), auc_length=estimate(0.3)))
    assert found.evidence == "100 prompts with both labels; length alone, pooled: 0.700; about 400 would show it"


def test_the_level_holds_for_all_gates_together() -> None:
    """z of 0.05 / 6 is 2.394; of 0.05 / 18, 2.773."""
    figure = estimate(1.0, 0.0, 2.0)
    assert shown_beyond(figure, 1 - 2.394 / 1.96 - 0.001)
    assert not shown_beyond(figure, 1 - 2.394 / 1.96 + 0.001)
    assert shown_beyond(figure, 1 - 2.773 / 1.96 - 0.001, tests=3)
    assert not shown_beyond(figure, 1 - 2.773 / 1.96 + 0.001, tests=3)


@pytest.mark.parametrize(
    ("decision", "state", "words"),
    [
        (BETTER, "pass", "As computed"),
        (decided("worse", effect(-0.06, 0.03)), "fail", "As computed"),
        (
            decided("worse", effect(-0.04, 0.035)),
            "missing",
            "As computed, but not beyond its margin at the level of all gates",
        ),
        (decided("guard_failed", effect(0.04, 0.02), effect(-0.09, 0.04, 0.01)), "fail", "As computed"),
        (decided("guard_failed", effect(0.04, 0.02), effect(-0.05, 0.04, 0.02)), "missing", "level of all gates"),
        (decided("no_evidence", effect(0.0, 0.02)), "missing", "As computed"),
        (decided("not_enough", effect(0.0, 0.02) | {"low": None, "high": None}), "missing", "As computed"),
    ],
)
def test_the_decision_counts_at_the_level_of_all_gates(decision: dict[str, Any], state: str, words: str) -> None:
    found = gate("decision", decision=decision)
    assert (found.state, words in found.evidence) == (state, True)


@pytest.mark.parametrize(
    ("key", "found", "state", "evidence_has"),
    [
        ("safety", suite("redteam", 0.002, 0.005), "pass", "redteam-1, 400 samples"),
        ("safety", suite("redteam", 0.002, 0.02), "missing", "about 2,500 would show it"),
        ("safety", suite("redteam", 0.05, 0.02), "fail", ""),
        ("safety", suite("redteam", 0.05, 0.02, margin=0.1), "pass", ""),
        ("safety", suite("redteam", 0.0, None), "missing", "too few for an interval"),
        ("over_refusal", suite("benign", 0.01, 0.009), "pass", ""),
        ("over_refusal", suite("benign", 0.06, 0.03), "fail", ""),
        ("regression", suite("eval", -0.01, 0.005), "pass", ""),
        ("regression", suite("eval", -0.06, 0.02), "fail", ""),
        ("regression", suite("eval", 0.06, 0.02), "pass", ""),
        ("regression", suite("eval", 0.0, 0.05, num_failed=9), "missing", "9 without a verdict"),
    ],
)
def test_suites_are_judged_by_their_margin(key: str, found: SuiteEvidence, state: str, evidence_has: str) -> None:
    judged = gate(key, suites=(found,))
    assert judged.state == state
    assert evidence_has in judged.evidence


def test_the_worst_suite_is_shown() -> None:
    bad = SuiteEvidence(name="returns", kind="eval", num_samples=300, difference=estimate(-0.2, -0.25, -0.15, 300))
    judged = gate("regression", suites=(*SOUND, bad))
    assert (judged.state, judged.num) == ("fail", "\u221220.0")
    assert judged.evidence == "returns, 300 samples; 2 suites"


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"loop_rate": contrast(0.0, 0.02, 0.005)}, "fail"),
        ({"loop_rate": contrast(0.0, 0.02, 0.03)}, "pass"),  # one loop in fifty by chance
        ({"loop_rate": contrast(0.02, 0.03, 0.005)}, "pass"),
        ({"truncated_share": contrast(0.05, 0.2, 0.05)}, "fail"),
        ({"truncated_share": contrast(0.0005, 0.001, 0.001)}, "pass"),
        ({"truncated_share": contrast(0.05, 0.2, 0.2)}, "pass"),
    ],
)
def test_loops_and_truncation(changes: dict[str, Any], state: str) -> None:
    assert gate("diversity", overall=metrics(**changes)).state == state


@pytest.mark.parametrize(
    ("similarity", "distinct", "state"),
    [
        (contrast(0.3, 0.33, 0.01), contrast(3.0, 2.0, 0.1), "pass"),
        (contrast(0.3, 0.34, 0.02), contrast(3.0, 2.0, 0.1), "missing"),
        (contrast(0.3, 0.5, 0.02), contrast(3.0, 2.9, 0.1), "missing"),
        (contrast(0.3, 0.5, 0.02), contrast(3.0, 1.2, 0.1), "fail"),
        (contrast(0.3, 0.5), contrast(3.0, 1.2), "missing"),
    ],
)
def test_diversity_fails_only_when_both_measures_leave_their_margins(
    similarity: dict[str, Any], distinct: dict[str, Any], state: str
) -> None:
    assert gate("diversity", overall=metrics() | {"similarity": similarity, "distinct_k": distinct}).state == state


def test_what_was_gated_by_quality_counts_where_it_was_measured() -> None:
    shifted = metrics() | {"similarity": contrast(0.3, 0.5, 0.02), "distinct_k": contrast(3.0, 1.2, 0.1)}
    calm = {"similarity_normalised": contrast(0.3, 0.31, 0.01), "distinct_k_gated": contrast(3.0, 2.9, 0.1)}
    assert gate("diversity", overall=shifted | calm).state == "pass"
    assert gate("diversity", overall=shifted | calm).evidence == "distinct answers, gated, 3.00 to 2.90"
    assert gate("diversity").evidence == "distinct answers 3.00 to 2.90"


@pytest.mark.parametrize(
    ("alarms", "state"),
    [
        ([alarm("critical")], "fail"),
        ([alarm("critical", "accepted")], "pass"),
        ([alarm("alarm")], "missing"),
        ([alarm("alarm", "dismissed"), alarm("watch")], "pass"),
    ],
)
def test_open_alarms(alarms: list[EvaluationAlarm], state: str) -> None:
    found = gate("diversity", alarms=alarms)
    assert found.state == state
    assert ("Loops rose to 9.0 %." in found.evidence) is (state == "fail")


def test_controls_alone_are_no_evidence_of_a_collapse() -> None:
    collapsed = metrics() | {"similarity": contrast(0.3, 0.7, 0.02), "distinct_k": contrast(3.0, 1.2, 0.1)}
    assert gate("diversity", overall=collapsed).state == "fail"
    held = Evaluation(heldout=heldout(), diversity={"overall": collapsed, "num_open_prompts": 0})
    assert gate("diversity", evaluation=held).state == "missing"
