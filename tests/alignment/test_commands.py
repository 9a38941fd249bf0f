"""``estimate`` and ``export`` on the command line; ``train`` has test_process.py and test_checks.py."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.alignment import tiny
from tests.alignment.test_runs import run, told
from worker.alignment.__main__ import main
from worker.alignment.config import TrainSpec


def estimate(spec: TrainSpec, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    path = Path(spec.attempt_dir).with_suffix(".json")
    path.write_text(json.dumps(spec.to_json()), encoding="utf-8")
    capsys.readouterr()
    code = main(["estimate", str(path)])
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, figures


def test_estimate_tells_memory_and_steps_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tiny.spec(tmp_path, max_steps=0, num_epochs=2.0, memory_limit_gib=64.0)
    code, figures = estimate(spec, capsys)
    assert (code, figures["fits"], figures["limit_bytes"]) == (0, True, 64 * 2**30)
    assert not Path(spec.attempt_dir).exists()
    assert not Path(spec.cache_dir).exists()
    run(spec)
    (started,) = [event["data"] for event in told(spec, "run_started")]
    assert figures["total_steps"] == started["total_steps"] == 10
    assert figures["num_rows"] == started["num_train_rows"]
    assert figures["model"]["num_lora_parameters"] == started["num_trainable_parameters"]
    parts = sum(value for name, value in figures.items() if name.endswith("_bytes") and name.split("_")[0] not in {"total", "limit"})  # fmt: skip
    assert figures["total_bytes"] == parts
    assert 0 < figures["seconds_low"] < figures["seconds_high"]


def test_an_estimate_that_does_not_fit_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, figures = estimate(tiny.spec(tmp_path, memory_limit_gib=0.01), capsys)
    assert (code, figures["fits"]) == (1, False)
    assert re.match(r"A step needs [0-9.]+ GiB with every layer recomputed, and there are 0\.0 GiB", figures["plan"])


def test_a_spec_that_could_not_train_has_no_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spec.json"
    spec = replace(tiny.spec(tmp_path), model_path="/no/such/model")
    path.write_text(json.dumps(spec.to_json()), encoding="utf-8")
    capsys.readouterr()
    assert main(["estimate", str(path)]) == 2
    assert capsys.readouterr().err.startswith("base_model: tiny is not there")


def test_export_takes_an_adapter_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = tiny.spec(tmp_path, max_steps=3)
    run(trained)
    checkpoint = Path(trained.attempt_dir) / "checkpoints" / "step-000003"
    spec = {"kind": "adapter", "base_model": trained.model_path, "adapter_dir": str(checkpoint)}
    path = tmp_path / "export.json"
    path.write_text(json.dumps(spec | {"out_dir": str(tmp_path / "out")}), encoding="utf-8")
    capsys.readouterr()
    assert main(["export", str(path)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accepted"] is True
    name = "adapter_model.safetensors"
    assert load_file(tmp_path / "out" / name).keys() == load_file(checkpoint / name).keys()
    path.write_text(json.dumps({"kind": "adapter"}), encoding="utf-8")
    assert main(["export", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
