"""Each finding of the preflight, from data that bring it about."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.core.clock import utcnow
from app.core.errors import InvalidError
from app.core.storage import artifact_path
from app.models import Snapshot, Worker
from app.runs import launching, preflight
from app.runs.base_models import find_base_model
from app.runs.forms import LaunchForm
from tests.runs import samples
from tests.runs.conftest import Bench

LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "intermediate_size": 128,
}


def check(
    bench: Bench, snapshot: Snapshot | None = None, model: Path | None = None, **changes: Any
) -> preflight.Preflight:
    found = find_base_model(str(model or bench.model))
    config = samples.small_config(found.name, **changes)
    return preflight.check(bench.db, snapshot or bench.snapshot, found, config)


def codes(result: preflight.Preflight, level: str) -> set[str]:
    return {finding.code for finding in result.findings if finding.level == level}


def test_balanced_data_with_a_worker_are_fine(bench):
    now = utcnow()
    device = {"name": "CPU", "kind": "cpu", "memory_bytes": 8 * 2**30, "num_cores": 2}
    bench.db.add(Worker(name="w", devices=[device], started_at=now, heard_at=now))
    bench.db.flush()
    result = check(bench)
    assert result.errors == []
    assert codes(result, "ok") == {"model", "both_classes", "weights", "worker"}
    assert result.num_steps == 6


@pytest.mark.parametrize("label", [True, False])
def test_one_class_is_an_error(bench, label):
    rows = [samples.snapshot_row(number, label=label) for number in range(80)]
    result = check(bench, samples.freeze(bench.db, bench.project, rows, [], name=f"one{label}"))
    assert codes(result, "error") == {"one_class"}
    assert ("desirable" if label else "undesirable") in result.errors[0].text


def test_small_classes_weights_and_dev_prompts_warn(bench):
    rows = [samples.snapshot_row(number, label=number % 10 == 0) for number in range(100)]
    result = check(bench, samples.freeze(bench.db, bench.project, rows, rows[:5], name="small"), batch_size=200)
    assert {"small_class", "weights_outside", "no_mixed_prompts", "large_batch"} <= codes(result, "warning")
    text = next(finding for finding in result.warnings if finding.code == "weights_outside")
    assert "0.11" in text.text
    assert "Use 9 for desirable" in text.remedy


@pytest.mark.parametrize(("rate", "words"), [(1e-8, "below"), (0.01, "above")])
def test_an_unusual_learning_rate_warns(bench, rate, words):
    found = [item for item in check(bench, learning_rate=rate).warnings if item.code == "learning_rate"]
    assert words in found[0].text
    assert "learning_rate" not in codes(check(bench, learning_rate=5e-6), "warning")


def test_long_rows_are_counted(bench):
    rows = [samples.snapshot_row(n, label=n % 2 == 0, words=1000 if n < 25 else 4) for n in range(100)]
    result = check(bench, samples.freeze(bench.db, bench.project, rows, samples.mixed_dev(), name="long"))
    assert "About 25.0% of the rows" in next(item.text for item in result.warnings if item.code == "long_rows")


def test_more_than_the_context_is_an_error(bench):
    result = check(bench, max_length=5000)
    assert codes(result, "error") == {"over_context"}
    assert result.errors[0].field == "max_length"


def test_missing_files_are_an_error(bench):
    snapshot = samples.freeze(bench.db, bench.project, samples.balanced(), [], name="gone")
    shutil.rmtree(artifact_path(snapshot.path))
    assert codes(check(bench, snapshot), "error") == {"snapshot_missing"}


def test_no_worker_warns(bench):
    assert "no_worker" in codes(check(bench), "warning")


@pytest.mark.parametrize(("free", "level"), [(10**8, "error"), (10**9, "warning")])
def test_little_disk_is_named(bench, monkeypatch, free, level):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert "disk_low" in codes(check(bench), level)


def test_memory_is_estimated_and_a_small_device_warns(bench):
    model = samples.model_folder("shaped", **LLAMA)
    now = utcnow()
    bench.db.add(
        Worker(
            name="w",
            devices=[{"name": "CPU", "kind": "cpu", "memory_bytes": 2**29, "num_cores": 2}],
            started_at=now,
            heard_at=now,
        )
    )
    bench.db.flush()
    result = check(bench, model=model)
    assert result.estimate is not None
    assert result.estimate.total_bytes > 2**29
    assert "memory" in codes(result, "warning")


def test_a_form_gives_the_config_and_the_config_the_form(bench):
    form = LaunchForm.parse({"beta": "0.2", "lora_targets": "q_proj, v_proj", "undesirable_weight": "", "seed": "3"})
    config = form.to_config(base_model="m", advised=(1.0, 1.5))
    assert (config.beta, config.undesirable_weight, config.lora.target_modules) == (0.2, 1.5, ("q_proj", "v_proj"))
    again = LaunchForm.of_config(config, snapshot_id=1).to_config(base_model="m", advised=(9.0, 9.0))
    assert again == config


def test_values_out_of_range_name_the_forms_fields():
    with pytest.raises(InvalidError) as caught:
        LaunchForm.parse({"lora_r": "0", "beta": "-1"}).to_config(base_model="m", advised=(1.0, 1.0))
    assert set(caught.value.fields) == {"lora_r", "beta"}
    with pytest.raises(InvalidError) as caught:
        LaunchForm.parse({"max_steps": "3.5", "attention": "magic"})
    assert caught.value.fields == {"max_steps": "must be a whole number", "attention": "is not one of the choices"}


def test_the_command_line_launches_the_same_run(bench):
    model = find_base_model(bench.model)
    config = samples.small_config(model.name, beta=0.2)
    command = launching.equivalent_command(bench.project, bench.snapshot, model, config)
    changes = [part.strip(" \\'").removeprefix("--set ").strip("'") for part in command.splitlines()[2:]]
    run, warnings = launching.launch_by_names(
        bench.db,
        project=bench.project.slug,
        snapshot=bench.snapshot.content_hash[:12],
        base_model=model.label,
        changes=changes,
        launch_key="cli",
    )
    assert run.config == config.to_json() | {"lora": run.config["lora"]}
    assert any("No worker" in text for text in warnings)
    with pytest.raises(InvalidError, match="unknown"):
        launching.config_from_words("m", (1.0, 1.0), ["nonsense=1"])
