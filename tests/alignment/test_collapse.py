"""A model that answers, trained for real: what ruins it pauses the run, what the raters asked for raises nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.evaluation_talker import HEALTHY, THINGS, TOO_HIGH, make_home, run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("talker"))


def test_a_far_too_high_learning_rate_is_paused_at_the_first_look(home: Path, tmp_path: Path) -> None:
    found = run(home, tmp_path / "a", TOO_HIGH)
    assert found.finished.status == "paused"
    assert found.finished.message.startswith("Paused at step 12: ")
    (evaluation,) = found.evaluations
    assert evaluation["diversity"]["num_categories"] == len(THINGS)
    critical = found.alarms("critical")
    assert critical
    assert critical[0]["text"] in found.finished.message
    assert critical[0]["policy"] > 0.3 > 0.05 > critical[0]["reference"]
    stored = json.loads((tmp_path / "a/evaluations/step-000012/result.json").read_text())
    assert stored["alarms"] == evaluation["alarms"]


def test_a_healthy_run_that_spreads_a_style_raises_nothing(home: Path, tmp_path: Path) -> None:
    found = run(home, tmp_path / "a", HEALTHY)
    assert found.finished.status == "succeeded"
    assert len(found.evaluations) == 2
    assert found.alarms("critical", "alarm") == []
    assert found.styled["reference"] < 0.6
    assert found.styled["policy"] > 0.8
    last = found.evaluations[-1]
    assert last["heldout"]["auc"]["value"] > 0.8
    assert "Only samples that look desirable count" in last["diversity"]["quality_rule"]
