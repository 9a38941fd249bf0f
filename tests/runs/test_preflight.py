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
    result = check(
        bench,
        samples.freeze(bench.db, bench.project, rows, rows[:5], name="small"),
        batch_size=200,
        desirable_weight=1.0,
    )
    assert {"small_class", "weights_outside", "no_mixed_prompts", "large_batch"} <= codes(result, "warning")
    text = next(finding for finding in result.warnings if finding.code == "weights_outside")
    assert "0.11" in text.text
    assert "Use 9 for desirable" in text.remedy


@pytest.mark.parametrize(("rate", "words"), [(1e-8, "below"), (0.01, "above")])
def test_an_unusual_learning_rate_warns(bench, rate, words):
    found = [item for item in check(bench, learning_rate=rate).warnings if item.code == "learning_rate"]
    assert words in found[0].text
    assert "learning_rate" not in codes(check(bench, learning_rate=5e-6), "warning")


def test_weights_come_from_the_data_where_none_is_set(bench):
    rows = [samples.snapshot_row(number, label=number % 10 == 0) for number in range(600)]
    snapshot = samples.freeze(bench.db, bench.project, rows, samples.mixed_dev(), name="rare")
    assert "weights" in codes(check(bench, snapshot), "ok")
    assert "weights_outside" in codes(check(bench, snapshot, undesirable_weight=1.0), "warning")
    assert not {"weights", "weights_outside"} & codes(check(bench, snapshot, objective="sft"), "ok")


def rated(prompts: int, desirable: int, undesirable: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows of so many prompts, each with so many answers of either label."""
    labels = [True] * desirable + [False] * undesirable
    return [
        samples.snapshot_row(start + number * len(labels) + place, label=label, prompt=f"Prompt {start + number}?")
        for number in range(prompts)
        for place, label in enumerate(labels)
    ]


@pytest.mark.parametrize(
    ("rows", "level", "code", "words"),
    [
        (rated(60, 1, 0) + rated(60, 0, 1, start=1000), "error", "no_pairs", "there is no pair"),
        (rated(20, 1, 2) + rated(9, 1, 0, start=1000), "warning", "few_pairs", "Only 40 pairs to train on, 9 rows"),
        (rated(20, 1, 3) + rated(9, 0, 1, start=1000), "ok", "pairs", "60 pairs; 9 rows"),
        (rated(60, 1, 0), "error", "one_class", "DPO needs both classes"),
    ],
)
def test_dpo_counts_its_pairs(bench, rows, level, code, words):
    snapshot = samples.freeze(bench.db, bench.project, rows, samples.mixed_dev(), name=code)
    found = [item for item in check(bench, snapshot, objective="dpo").findings if item.code == code]
    assert [item.level for item in found] == [level]
    assert words in found[0].text


def test_steps_count_what_the_objective_trains_on(bench):
    rows = rated(20, 1, 3) + rated(20, 0, 1, start=1000)
    snapshot = samples.freeze(bench.db, bench.project, rows, samples.mixed_dev(), name="units")
    steps = {
        objective: check(bench, snapshot, objective=objective, max_steps=0, batch_size=10).num_steps
        for objective in ("kto", "apo_zero_unpaired", "dpo", "sft")
    }
    assert steps == {"kto": 10, "apo_zero_unpaired": 10, "dpo": 6, "sft": 2}


def test_sft_needs_desirable_rows_only(bench):
    for label, level, code in ((True, "ok", "desirable"), (False, "error", "no_desirable")):
        rows = [samples.snapshot_row(number, label=label) for number in range(60)]
        snapshot = samples.freeze(bench.db, bench.project, rows, samples.mixed_dev(), name=f"sft{label}")
        result = check(bench, snapshot, objective="sft")
        assert code in codes(result, level)
        assert "one_class" not in codes(result, "error")


def test_an_empty_dev_split_warns(bench):
    result = check(bench, samples.freeze(bench.db, bench.project, samples.balanced(), [], name="nodev"))
    assert "empty_dev" in codes(result, "warning")
    assert result.errors == []


@pytest.mark.parametrize(("kind", "refused"), [("cpu", True), ("cuda", False)])
def test_some_settings_need_cuda(bench, kind, refused):
    now = utcnow()
    device = {"name": kind, "kind": kind, "memory_bytes": 2**36, "num_cores": 2}
    bench.db.add(Worker(name="w", devices=[device], started_at=now, heard_at=now))
    bench.db.flush()
    for result in (check(bench, quantization="4bit"), check(bench, attention="flash"), check(bench, attention="flex")):
        assert ("needs_cuda" in codes(result, "error")) is refused
    assert "needs_cuda" not in codes(check(bench, attention="sdpa"), "error")


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
            devices=[{"name": "CPU", "kind": "cpu", "memory_bytes": 2**28, "num_cores": 2}],
            started_at=now,
            heard_at=now,
        )
    )
    bench.db.flush()
    result = check(bench, model=model)
    assert result.estimate is not None
    assert result.estimate.total_bytes > 2**28
    assert "memory" in codes(result, "warning")


def test_a_form_gives_the_config_and_the_config_the_form(bench):
    form = LaunchForm.parse({"beta": "0.2", "lora_targets": "q_proj, v_proj", "undesirable_weight": "1.5", "seed": "3"})
    config = form.to_config(base_model="m")
    assert (config.beta, config.undesirable_weight, config.lora.target_modules) == (0.2, 1.5, ("q_proj", "v_proj"))
    assert LaunchForm.of_config(config, snapshot_id=1).to_config(base_model="m") == config


def test_values_out_of_range_name_the_forms_fields():
    with pytest.raises(InvalidError) as caught:
        LaunchForm.parse({"lora_r": "0", "beta": "-1"}).to_config(base_model="m")
    assert set(caught.value.fields) == {"lora_r", "beta"}
    with pytest.raises(InvalidError) as caught:
        LaunchForm.parse({"max_steps": "3.5", "attention": "magic"})
    assert caught.value.fields == {"max_steps": "must be a whole number", "attention": "is not one of the choices"}


def test_the_command_line_launches_the_same_run(bench):
    model = find_base_model(bench.model)
    config = samples.small_config(model.name, beta=0.2, desirable_weight=1.5, allow_incomplete=True)
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
        launching.config_from_words("m", ["nonsense=1"])
