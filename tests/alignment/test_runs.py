"""Whole runs in this process: events, checkpoints, evaluation, resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.alignment import tiny
from worker.alignment import policy as policy_module
from worker.alignment.checkpoints import latest_valid_checkpoint, validate_checkpoint
from worker.alignment.checks import check_spec
from worker.alignment.config import LoraSettings, TrainSpec
from worker.alignment.errors import CheckpointError, DivergedError, StopRequest
from worker.alignment.events import METRIC_KEYS, Estimate, EvaluationResult, HeldoutResult, RunFinished
from worker.alignment.reporters import JsonlReporter
from worker.alignment.trainer import train

NOTHING = Estimate(value=None)


class Evaluator:
    """Stands in for the screen evaluation: keeps what it was given and disturbs what a careless one would."""

    def __init__(self, on_call: Callable[[], None] = lambda: None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.on_call = on_call

    def __call__(self, **given: Any) -> EvaluationResult:
        self.calls.append(given)
        torch.manual_seed(12345)
        torch.rand(3)
        given["on_progress"](1, 2)
        self.on_call()
        return EvaluationResult(
            step=given["step"],
            heldout=HeldoutResult(
                num_desirable=1, num_undesirable=1, accuracy=NOTHING, auc=NOTHING, auc_within_prompt=NOTHING,
                auc_length=NOTHING, kl=NOTHING, reward_desirable=None, reward_undesirable=None,
            ),
            diversity=None,
            samples_path="evaluations/samples.jsonl",
            seconds=0.0,
        )  # fmt: skip


def run(spec: TrainSpec, evaluate: Any = None, should_stop: Callable[[], bool] = lambda: False) -> RunFinished:
    reporter = JsonlReporter(spec.events_path)
    try:
        return train(spec, reporter, evaluate=evaluate or Evaluator(), should_stop=should_stop)
    finally:
        reporter.close()


def told(spec: TrainSpec, kind: str) -> list[dict[str, Any]]:
    return [event for event in tiny.events(Path(spec.attempt_dir)) if event["kind"] == kind]


def losses(spec: TrainSpec) -> dict[int, float]:
    return {event["step"]: event["data"]["loss"] for event in told(spec, "metrics")}


def adapter(spec: TrainSpec, step: int) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(
        Path(spec.attempt_dir) / "checkpoints" / f"step-{step:06d}" / "adapter_model.safetensors"
    )
    return loaded


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_tells_its_story(tmp_path: Path) -> None:
    spec = tiny.spec(tmp_path, desirable_weight=1.0, undesirable_weight=1.0)
    evaluator = Evaluator()
    assert run(spec, evaluator) == RunFinished(status="succeeded", message="Finished 6 steps.")
    events = tiny.events(Path(spec.attempt_dir))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    (started,) = told(spec, "run_started")
    assert started["data"]["num_train_rows"] == 40
    assert started["data"]["attention"].startswith("SDPA per sequence, packed")
    assert (started["data"]["checkpointing"], started["data"]["world_size"]) == ("none", 1)
    assert 0 < started["data"]["num_trainable_parameters"] < started["data"]["num_parameters"]
    metrics = told(spec, "metrics")
    assert [event["step"] for event in metrics] == [1, 2, 3, 4, 5, 6]
    assert set(metrics[0]["data"]) == set(METRIC_KEYS)
    assert metrics[0]["data"]["loss"] == pytest.approx(0.5, abs=1e-4)
    assert metrics[0]["data"]["kl"] == pytest.approx(0, abs=1e-4)
    assert metrics[-1]["data"]["epoch"] == pytest.approx(1.2)
    saved = told(spec, "checkpoint_saved")
    assert [(e["step"], e["data"]["path"], e["data"]["is_last"]) for e in saved] == [
        (3, "checkpoints/step-000003", False),
        (6, "checkpoints/step-000006", True),
    ]
    assert [event["step"] for event in told(spec, "evaluation_finished")] == [3, 6]
    assert [event["kind"] for event in events].index("checkpoint_saved") < [e["kind"] for e in events].index(
        "evaluation_finished"
    )


def test_the_evaluation_gets_held_out_rows_and_prompts(tmp_path: Path) -> None:
    evaluator = Evaluator()
    run(tiny.spec(tmp_path), evaluator)
    given = evaluator.calls[0]
    heldout = given["heldout"]
    assert heldout.labels.shape == heldout.logratios.shape == heldout.lengths.shape == (10,)
    assert heldout.kl_logratios.shape == (10,)
    assert abs(heldout.logratios).max() > 0
    assert set(heldout.roots) == {f"root-{n}" for n in range(2500, 2505)}
    assert {case.category for case in given["prompts"]} == {"colour", "size"}
    assert len(given["prompts"]) == 10
    assert given["reference_key"] == evaluator.calls[1]["reference_key"]
    assert not given["model"].training


def test_training_raises_the_reward_margin(tmp_path: Path) -> None:
    spec = tiny.spec(tmp_path, max_steps=40, learning_rate=2e-2, num_epochs=8.0)
    run(spec)
    margins = [event["data"]["rewards/margins"] for event in told(spec, "metrics")]
    assert sum(margins[-5:]) / 5 > 0.5


def test_same_seed_same_run_and_evaluation_leaves_no_trace(tmp_path: Path) -> None:
    lora = LoraSettings(
        r=4, alpha=8, dropout=0.2
    )  # dropout draws from the generator that a careless evaluation disturbs
    one, two, other = (tiny.spec(tmp_path, attempt=n, lora=lora, seed=seed) for n, seed in ((1, 0), (2, 0), (3, 1)))
    often = replace(two.config.evaluation, interval_steps=1)
    two = replace(two, config=replace(two.config, evaluation=often))
    for spec in (one, two, other):
        run(spec)
    assert losses(one) == losses(two)
    assert same(adapter(one, 6), adapter(two, 6))
    assert not same(adapter(one, 6), adapter(other, 6))


def test_a_rerun_with_another_beta_and_seed_computes_no_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tiny.spec(tmp_path)
    run(first)
    assert [e["data"]["detail"]["computed"] for e in told(first, "notice") if "computed" in e["data"]["detail"]] == [
        100
    ]
    rows: list[int] = []
    inner = policy_module.Policy.logps

    def counted(self: Any, pairs: Any) -> torch.Tensor:
        layer = next(m for name, m in self.model.named_modules() if name.endswith("q_proj"))
        if layer.disable_adapters:
            rows.append(len(pairs))
        return inner(self, pairs)

    monkeypatch.setattr(policy_module.Policy, "logps", counted)
    second = tiny.spec(tmp_path, attempt=2, beta=0.3, seed=5, lora=LoraSettings(r=8, alpha=8))
    run(second)
    assert sum(rows) == 8  # the check
    assert [e["data"]["detail"]["computed"] for e in told(second, "notice") if "computed" in e["data"]["detail"]] == [0]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_resume_is_bit_exact(tmp_path: Path, dropout: float) -> None:
    lora = LoraSettings(r=4, alpha=8, dropout=dropout)
    whole = tiny.spec(tmp_path, lora=lora)
    run(whole)
    resumed = tiny.spec(
        tmp_path, attempt=2, lora=lora, resume_from=tmp_path / "attempt-1" / "checkpoints" / "step-000003"
    )
    torch.rand(5)
    assert run(resumed).status == "succeeded"
    assert told(resumed, "run_started")[0]["data"]["start_step"] == 3
    assert losses(resumed) == {step: loss for step, loss in losses(whole).items() if step > 3}
    assert same(adapter(whole, 6), adapter(resumed, 6))


def test_stop_saves_the_finished_step_and_resume_ends_the_same(tmp_path: Path) -> None:
    whole = tiny.spec(tmp_path)
    run(whole)
    stopped = tiny.spec(tmp_path, attempt=2)
    finished = run(stopped, should_stop=lambda: len(losses(stopped)) >= 5)
    assert finished.status == "stopped"
    last = latest_valid_checkpoint(Path(stopped.attempt_dir) / "checkpoints")
    assert last is not None
    assert last.name == "step-000005"
    evaluator = Evaluator()
    resumed = tiny.spec(tmp_path, attempt=3, resume_from=last)
    run(resumed, evaluator)
    assert same(adapter(whole, 6), adapter(resumed, 6))
    assert [call["step"] for call in evaluator.calls] == [6]  # step 5 was not due


def test_a_checkpoint_whose_evaluation_was_interrupted_is_evaluated_on_resume(tmp_path: Path) -> None:
    def stop() -> None:
        raise StopRequest

    first = tiny.spec(tmp_path)
    assert run(first, Evaluator(stop)).status == "stopped"
    assert [event["step"] for event in told(first, "checkpoint_saved")] == [3]
    evaluator = Evaluator()
    second = tiny.spec(tmp_path, attempt=2, resume_from=tmp_path / "attempt-1" / "checkpoints" / "step-000003")
    run(second, evaluator)
    assert [call["step"] for call in evaluator.calls] == [3, 6]
    saved = told(second, "checkpoint_saved")
    assert [event["step"] for event in saved] == [3, 6]
    assert saved[0]["data"]["manifest_sha256"] == told(first, "checkpoint_saved")[0]["data"]["manifest_sha256"]
    validate_checkpoint(Path(second.attempt_dir) / saved[0]["data"]["path"])
    third = tiny.spec(tmp_path, attempt=3, resume_from=tmp_path / "attempt-2" / "checkpoints" / "step-000006")
    assert run(third, evaluator).status == "succeeded"
    assert len(evaluator.calls) == 2


def test_a_changed_base_model_fails_the_resumed_run(tmp_path: Path) -> None:
    """What is known only once the model is there: the checks before cannot see it."""
    run(tiny.spec(tmp_path))
    source = tmp_path / "attempt-1" / "checkpoints" / "step-000003"
    tiny.save_model(tmp_path / "model", "qwen3")
    with pytest.raises(CheckpointError, match="bit for bit: base was"):
        run(tiny.spec(tmp_path, attempt=3, resume_from=source))


def test_damaged_checkpoints_are_found_and_the_one_before_is_used(tmp_path: Path) -> None:
    run(tiny.spec(tmp_path))
    folder = tmp_path / "attempt-1" / "checkpoints"
    state = folder / "step-000006" / "state.pt"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"state\.pt differs"):
        validate_checkpoint(folder / "step-000006")
    assert latest_valid_checkpoint(folder) == folder / "step-000003"
    (folder / "step-000003" / "manifest.json").write_text("{")
    assert latest_valid_checkpoint(folder) is None
    assert latest_valid_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own
def test_the_adapter_loads_with_peft_alone(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    spec = tiny.spec(tmp_path)
    evaluator = Evaluator()
    run(spec, evaluator)
    ours = evaluator.calls[-1]["model"]
    base = AutoModelForCausalLM.from_pretrained(spec.model_path, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, str(Path(spec.attempt_dir) / "checkpoints" / "step-000006"))
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(input_ids=ids).logits, ours(input_ids=ids).logits, atol=1e-5)


def test_skipped_rows_are_told_by_id(tmp_path: Path) -> None:
    rows = [tiny.record(n) for n in range(12)] + [tiny.record(77, words=400)]
    tiny.save_snapshot(tmp_path / "snapshot", records=rows)
    spec = tiny.spec(tmp_path, max_steps=1)
    run(spec)
    (warning,) = told(spec, "warning")
    assert warning["data"]["detail"]["rows"][0]["id"] == 1077
    assert told(spec, "run_started")[0]["data"]["num_skipped_rows"] == 1


def test_trap_04_one_sided_data_trains_with_a_warning_and_no_absent_keys(tmp_path: Path) -> None:
    tiny.save_snapshot(tmp_path / "snapshot", records=[tiny.record(n, label=False) for n in range(16)])
    spec = tiny.spec(tmp_path, max_steps=2, undesirable_weight=7.0, allow_incomplete=True)
    assert run(spec).status == "succeeded"
    assert any("one label" in event["data"]["text"] for event in told(spec, "warning"))
    assert not {"rewards/chosen", "rewards/margins"} & set(told(spec, "metrics")[0]["data"])
    started = told(spec, "run_started")[0]["data"]
    assert (started["desirable_weight"], started["undesirable_weight"]) == (1.0, 1.0)
    assert told(spec, "metrics")[0]["data"]["loss"] == pytest.approx(0.5, abs=1e-4)


def test_an_empty_dev_split_trains_without_evaluation(tmp_path: Path) -> None:
    tiny.save_snapshot(tmp_path / "snapshot", dev=0)
    evaluator = Evaluator()
    spec = tiny.spec(tmp_path, allow_incomplete=True)
    assert run(spec, evaluator).status == "succeeded"
    assert evaluator.calls == []
    assert len(told(spec, "checkpoint_saved")) == 2


def test_trap_11_non_finite_steps_name_the_rows_skip_the_update_and_end_as_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = policy_module.Policy.logps

    def broken(self: Any, pairs: Any) -> torch.Tensor:
        values = inner(self, pairs)
        return values * torch.tensor(float("nan")) if values.requires_grad else values

    monkeypatch.setattr(policy_module.Policy, "logps", broken)
    spec = tiny.spec(tmp_path)
    with pytest.raises(DivergedError, match="3 steps in a row"):
        run(spec)
    warnings = told(spec, "warning")
    assert [event["step"] for event in warnings] == [1, 2, 3]
    assert len(warnings[0]["data"]["detail"]["rows"]) == 8
    assert told(spec, "metrics") == []


@pytest.mark.parametrize("objective", ["kto", "apo_zero_unpaired", "dpo", "sft"])
def test_trap_11_one_bad_row_is_named_and_costs_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """Not averaged away: the row's id is told, nothing is learnt from the step (both rows of a pair included)."""
    rows = [tiny.record(n, label=n % 2 == 0, prompt=tiny.record(n // 2)["prompt"]) for n in range(16)]
    tiny.save_snapshot(tmp_path / "snapshot", records=rows)
    spec = tiny.spec(tmp_path, objective=objective, batch_size=4, max_steps=4)
    poisoned = next(row for row in check_spec(spec).train.rows if row.id == 1004).pair.completion_ids
    inner = policy_module.Policy.logps

    def broken(self: Any, pairs: Any) -> torch.Tensor:
        values = inner(self, pairs)
        hit = [bool(values.requires_grad and np.array_equal(pair.completion_ids, poisoned)) for pair in pairs]
        return values.masked_fill(torch.tensor(hit), float("nan")) if any(hit) else values

    monkeypatch.setattr(policy_module.Policy, "logps", broken)
    monkeypatch.setattr(policy_module.Policy, "logps_with_kl", lambda self, pairs, kl_pairs, kl_rows, *, token_budget: (
        self.logps(pairs), self.score(kl_pairs, token_budget=token_budget)
    ))  # fmt: skip
    assert run(spec).status == "succeeded"
    warnings = [event for event in told(spec, "warning") if "is skipped" in event["data"]["text"]]
    assert {tuple(event["data"]["detail"]["rows"]) for event in warnings} == {(1004,)}
    assert len(warnings) in (1, 2)  # once an epoch
    assert len(losses(spec)) == 4 - len(warnings)
    assert all(torch.isfinite(tensor).all() for tensor in adapter(spec, 3).values())


def test_a_full_disk_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    spec = tiny.spec(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        run(spec)
    assert list((Path(spec.attempt_dir) / "checkpoints").iterdir()) == []


def test_a_used_attempt_folder_is_refused(tmp_path: Path) -> None:
    spec = tiny.spec(tmp_path, max_steps=1)
    run(spec)
    before = spec.events_path.read_bytes()
    with pytest.raises(FileExistsError):
        JsonlReporter(spec.events_path)
    assert spec.events_path.read_bytes() == before


def test_the_spec_survives_json(tmp_path: Path) -> None:
    spec = tiny.spec(tmp_path)
    assert TrainSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
