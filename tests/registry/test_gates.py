from __future__ import annotations

from typing import Any

import pytest

from app.models import Evaluation
from app.registry.gates import gates_of, summary_of
from tests.evaluations.support import contrast, estimate, heldout, metrics


def states(held: dict[str, Any] | None = None, overall: dict[str, Any] | None = None) -> dict[str, str]:
    evaluation = Evaluation(heldout=held or heldout(), diversity={"overall": overall or metrics()})
    return {gate.key: gate.state for gate in gates_of(evaluation)}


def test_a_sound_checkpoint_passes_all() -> None:
    assert set(states().values()) == {"pass"}


def test_without_an_evaluation_nothing_passes_and_nothing_fails() -> None:
    gates = gates_of(None)
    assert {gate.state for gate in gates} == {"missing"}
    assert summary_of(gates) == "4 of 4 gates lack evidence"


@pytest.mark.parametrize(
    ("auc", "state"),
    [
        (estimate(0.6, 0.51, 0.69), "pass"),
        (estimate(0.6, 0.5, 0.7), "missing"),
        (estimate(0.45, 0.38, 0.52), "missing"),
        (estimate(0.4, 0.31, 0.49), "fail"),
        (estimate(0.9, None, None, 7), "missing"),
        (estimate(None), "missing"),
    ],
)
def test_ranking_goes_by_the_interval(auc: dict[str, Any], state: str) -> None:
    assert states(heldout(auc_within_prompt=auc))["ranking"] == state


def test_ranking_says_how_many_prompts_would_do() -> None:
    held = heldout(auc_within_prompt=estimate(0.55, 0.45, 0.65, 100))
    gate = gates_of(Evaluation(heldout=held, diversity=None))[0]
    assert "about 400 would show this effect" in gate.evidence


@pytest.mark.parametrize(
    ("length", "state"),
    [
        (estimate(0.58, 0.53, 0.63), "pass"),
        (estimate(0.30, 0.25, 0.35), "missing"),  # short is desirable: worth 0.70, 0.65 to 0.75
        (estimate(0.10, 0.05, 0.15), "fail"),
        (estimate(0.90, 0.85, 0.95), "fail"),
        (estimate(0.58, None, None), "missing"),
    ],
)
def test_length_counts_in_both_directions(length: dict[str, Any], state: str) -> None:
    assert states(heldout(auc_length=length))["length"] == state


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"loop_rate": contrast(0.0, 0.02, 0.005)}, "fail"),
        ({"loop_rate": contrast(0.02, 0.03, 0.005)}, "pass"),
        ({"truncated_share": contrast(0.05, 0.2, 0.05)}, "fail"),
        ({"truncated_share": contrast(0.0005, 0.001, 0.001)}, "pass"),
        ({"truncated_share": contrast(0.05, 0.2, 0.2)}, "missing"),
        ({"truncated_share": contrast(0.05, 0.06)}, "missing"),
        ({"truncated_share": contrast(0.05, 0.05)}, "pass"),
    ],
)
def test_loops_and_truncation(changes: dict[str, Any], state: str) -> None:
    assert states(overall=metrics(**changes))["degenerate"] == state


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
    assert states(overall=metrics() | {"similarity": similarity, "distinct_k": distinct})["diversity"] == state
