"""``estimate --probe``: the longest step is run and measured, the run's time follows from it, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.alignment import tiny
from tests.alignment.test_runs import run, told
from worker.alignment import planning, trial
from worker.alignment.__main__ import main
from worker.alignment.config import TrainSpec
from worker.alignment.memory import StepCost, measure_step


def probed(spec: TrainSpec, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    path = Path(spec.attempt_dir).with_suffix(".json")
    path.write_text(json.dumps(spec.to_json()), encoding="utf-8")
    before = set(path.parent.rglob("*"))
    capsys.readouterr()
    code = main(["estimate", str(path), "--probe"])
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert set(path.parent.rglob("*")) == before
    return code, figures


@pytest.mark.parametrize("objective", ["kto", "sft"])
def test_seconds_are_those_of_the_steps_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """Each pass really runs; its time is put in: 3 s the longest step, 1 s the middling, 0.5 s scoring."""
    left = [3.0, 1.0, 0.5]

    def measure(*given: Any) -> StepCost:
        assert measure_step(*given).seconds > 0
        return StepCost(peak_bytes=5, before_bytes=0, seconds=left.pop(0))

    monkeypatch.setattr(trial, "measure_step", measure)
    spec = tiny.spec(tmp_path, max_steps=10, objective=objective, batch_size=6)
    code, figures = probed(spec, capsys)
    assert (code, figures["fits"], figures["measured_step_seconds"]) == (0, True, 3.0)
    checked = trial_rows(spec)
    lengths = sorted(checked, reverse=True)
    low, high = sorted((3.0 / sum(lengths[:6]), 1.0 / sum(lengths[(len(lengths) - 6) // 2 :][:6])))
    trained = 10 * 6 * sum(lengths) / len(lengths)
    scoring = 0.0 if objective == "sft" else 0.5 / sum(lengths[(len(lengths) - 6) // 2 :][:6]) * sum(lengths)
    assert left == ([0.5] if objective == "sft" else [])  # which has no reference
    assert figures["seconds_low"] == pytest.approx(low * trained + scoring)
    assert figures["seconds_high"] == pytest.approx(high * trained + scoring)


def trial_rows(spec: TrainSpec) -> list[int]:
    from worker.alignment.checks import check_spec

    return [row.num_tokens for row in check_spec(spec).train.rows]


def test_the_peak_is_that_of_a_real_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tiny.spec(tmp_path, max_steps=2)
    code, figures = probed(spec, capsys)
    run(spec)
    peak = told(spec, "metrics")[-1]["data"]["memory_bytes"]  # of the whole process, loading included
    assert code == 0
    assert 0.5 * peak < figures["measured_peak_bytes"] <= 1.1 * peak
    assert figures["plan"].startswith("Nothing is recomputed: a step needs about ")
    assert 0 < figures["seconds_low"] <= figures["seconds_high"]


def test_a_step_that_does_not_fit_recomputes_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A limit far above what this process may hold by now, which counts as the libraries' share.
    peaks = [300 << 30, 1 << 29]
    monkeypatch.setattr(
        planning, "measure_step", lambda *_: StepCost(peak_bytes=peaks.pop(0), before_bytes=0, seconds=1.0)
    )
    code, figures = probed(tiny.spec(tmp_path, memory_limit_gib=100.0), capsys)
    assert (code, figures["num_recomputed_layers"]) == (0, 1)
    assert figures["measured_peak_bytes"] == (1 << 29) + 8 * figures["model"]["num_lora_parameters"]
    assert figures["plan"].endswith("(300.0 GiB were needed with fewer.)")


def test_what_cannot_be_loaded_or_fitted_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        planning, "measure_step", lambda *_: StepCost(peak_bytes=300 << 30, before_bytes=0, seconds=1.0)
    )
    spec = tiny.spec(tmp_path, memory_limit_gib=100.0)
    code, figures = probed(spec, capsys)
    assert (code, figures["fits"], figures["measured_peak_bytes"]) == (1, False, None)
    assert figures["plan"].startswith("With every layer recomputed 300.0 GiB were needed: ")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, figures = probed(spec, capsys)
    assert (code, figures["fits"]) == (1, False)
    assert figures["plan"].startswith("The base model tiny cannot be loaded: ")


def test_a_kind_of_model_that_is_not_known_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.save_model(tmp_path / "model", "lfm2")
    spec = tiny.spec(tmp_path, max_steps=2)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.to_json()), encoding="utf-8")
    assert main(["estimate", str(path)]) == 2
    assert "(lfm2 is not a kind of model this estimate knows); measure it with --probe" in capsys.readouterr().err
    code, figures = probed(spec, capsys)
    assert (code, figures["fits"], "weights_bytes" in figures) == (0, True, False)
    assert figures["measured_peak_bytes"] > 0
