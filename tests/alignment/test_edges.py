"""Runs on the edges of what data, tokenizer and disk can be: each ends in numbers or in a classified sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM

from tests.alignment import tiny
from tests.alignment.steps import disturb, policy_of, rows_of, scored, step
from tests.alignment.test_runs import Evaluator, run, told
from worker.alignment import checkpoints
from worker.alignment.base_model import load_causal_lm
from worker.alignment.checkpoints import latest_valid_checkpoint, validate_checkpoint
from worker.alignment.config import EvaluationSettings, LoraSettings
from worker.alignment.data import heldout_rows
from worker.alignment.dataset import DEFAULT_CHAT_TEMPLATE, Encoder, Row, load_split
from worker.alignment.errors import DivergedError
from worker.alignment.evaluation.diversity import PromptSamples, SampledText, diversity_result
from worker.alignment.evaluation.screen import screen
from worker.alignment.prepare import pins_of
from worker.alignment.prompts import prompt_cases
from worker.alignment.train import classify

SCREEN = EvaluationSettings(interval_steps=1, samples_per_prompt=2, max_new_tokens=4)


def data(folder: Path, records: list[dict[str, Any]], *, dev: list[dict[str, Any]] | None = None) -> None:
    tiny.save_snapshot(folder / "snapshot", records=records, dev=4)
    if dev is not None:
        text = "".join(json.dumps(row) + "\n" for row in dev)
        (folder / "snapshot" / "dev.jsonl").write_text(text, encoding="utf-8")


def screened_run(spec: Any) -> None:
    """A run with the real screen evaluation."""
    assert run(spec, screen).status == "succeeded"


# Few rows, same rows ------------------------------------------------------------------------------------------------


def test_trap_04_one_row_of_each_class_trains(tmp_path: Path) -> None:
    data(tmp_path, [tiny.record(0, label=True), tiny.record(2, label=False)])
    spec = tiny.spec(tmp_path, max_steps=2)
    assert run(spec).status == "succeeded"
    assert {"rewards/chosen", "rewards/rejected"} <= set(told(spec, "metrics")[0]["data"])


def test_trap_01_a_single_row_trains_without_a_partner(tmp_path: Path) -> None:
    """A batch of one never becomes its own KL pair: z0 stays 0 and the page is told why."""
    data(tmp_path, [tiny.record(0, label=True)])
    spec = tiny.spec(tmp_path, max_steps=2, learning_rate=0.05, warmup_ratio=0.0, allow_incomplete=True)
    assert run(spec).status == "succeeded"
    last = told(spec, "metrics")[-1]["data"]
    assert abs(last["rewards/chosen"]) > 0.01
    assert (last["kl"], last["kl/raw"]) == (0, 0)
    assert any("kl stays 0" in event["data"]["text"] for event in told(spec, "warning"))


def test_rows_of_one_conversation_have_no_partner(tmp_path: Path) -> None:
    data(tmp_path, [tiny.record(n, root="one") for n in range(12)])
    spec = tiny.spec(tmp_path, max_steps=3)
    assert run(spec).status == "succeeded"
    assert [event["data"]["kl"] for event in told(spec, "metrics")] == [0, 0, 0]
    assert any("kl stays 0" in event["data"]["text"] for event in told(spec, "warning"))


def test_trap_17_one_text_rated_both_ways_cancels_with_equal_weights(tmp_path: Path) -> None:
    """At r = z0 = 0 an up and a down vote on the same text pull equally hard in opposite directions."""
    policy = policy_of(tmp_path, "llama")
    tiny.save_snapshot(tmp_path / "data", records=[tiny.record(4, id=n, label=n == 0) for n in range(2)])
    rows = load_split(tmp_path / "data" / "train.jsonl", policy.tokenizer, max_length=128).rows
    result, grads = step(policy, scored(tmp_path, policy, rows))
    assert result.logps[0] == pytest.approx(float(result.logps[1]), rel=1e-6)
    assert result.loss == pytest.approx(0.5, abs=1e-5)
    assert max(float(grad.abs().max()) for grad in grads.values()) < 1e-5


# Lengths and tokenizers -----------------------------------------------------------------------------------------------


def test_prompts_longer_than_max_length_train_and_are_sampled_from_their_right_part(tmp_path: Path) -> None:
    long = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "warm water " * 200 + "end"}]
    records = [tiny.record(n, prompt=long, words=4) for n in range(6)]
    data(tmp_path, records, dev=[tiny.record(90, prompt=long, words=4), tiny.record(91, words=4)])
    spec = tiny.spec(tmp_path, max_steps=1, max_length=64)
    evaluator = Evaluator()
    assert run(spec, evaluator).status == "succeeded"
    lengths = sorted(len(case.token_ids) for case in evaluator.calls[0]["prompts"])
    assert len(lengths) == 2
    assert lengths[-1] == 63  # one place is left for an answer


def test_a_system_message_beyond_max_length_is_not_sampled() -> None:
    tokenizer = tiny.tokenizer()
    messages = [{"role": "system", "content": "warm water " * 100}, {"role": "user", "content": "now"}]
    encoder = Encoder(tokenizer, max_length=64)
    assert encoder.sampling_ids(messages) == []
    kept = Row(
        id=1,
        pair=None,  # type: ignore[arg-type]
        label=True,
        category="c",
        root="r",
        prompt_key="k",
        messages=messages,
    )
    assert prompt_cases([kept], encoder) == []


def test_a_tokenizer_that_adds_bos_itself_adds_it_once() -> None:
    tokenizer = tiny.tokenizer(template="{{ bos_token }}" + tiny.CHATML)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    assert tokenizer("cat")["input_ids"][0] == bos  # it does, when asked plainly
    row = Encoder(tokenizer, max_length=128).encode(tiny.record(1))
    assert isinstance(row, Row)
    ids = np.concatenate(row.pair).tolist()
    assert ids[0] == bos
    assert ids.count(bos) == 1


# Numbers ----------------------------------------------------------------------------------------------------------------


def test_a_policy_without_finite_numbers_is_diverged_before_it_is_evaluated(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama")
    rows = rows_of(tmp_path, policy)
    split = scored(tmp_path, policy, rows)
    for parameter in policy.parameters():
        parameter.data.fill_(1e30)
    with pytest.raises(DivergedError, match=rf"rows \[{rows[0].id}, "):
        heldout_rows(policy, split, token_budget=400)


def test_a_dev_split_of_one_label_is_evaluated(tmp_path: Path) -> None:
    data(tmp_path, [tiny.record(n) for n in range(12)], dev=[tiny.record(n, label=True) for n in range(50, 56)])
    spec = tiny.spec(tmp_path, max_steps=1, evaluation=SCREEN)
    screened_run(spec)
    (evaluation,) = told(spec, "evaluation_finished")
    heldout = evaluation["data"]["heldout"]
    assert (heldout["num_desirable"], heldout["num_undesirable"]) == (6, 0)
    assert heldout["auc"]["value"] is heldout["auc_within_prompt"]["value"] is heldout["reward_undesirable"] is None
    assert heldout["accuracy"]["value"] is not None


def test_without_categories_there_is_no_diversity(tmp_path: Path) -> None:
    data(tmp_path, [tiny.record(n) for n in range(12)], dev=[tiny.record(n, category=None) for n in range(50, 56)])
    spec = tiny.spec(tmp_path, max_steps=1, evaluation=SCREEN)
    screened_run(spec)
    (evaluation,) = told(spec, "evaluation_finished")
    assert evaluation["data"]["diversity"] is None
    samples = Path(spec.attempt_dir) / evaluation["data"]["samples_path"]
    assert samples.read_text(encoding="utf-8") == ""


def test_one_prompt_rated_many_times_is_sampled_once(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "see the cat"}]
    dev = [tiny.record(n, prompt=prompt, root="r", category="size") for n in range(50, 58)]
    data(tmp_path, [tiny.record(n) for n in range(12)], dev=dev)
    spec = tiny.spec(tmp_path, max_steps=1, evaluation=SCREEN)
    screened_run(spec)
    (evaluation,) = told(spec, "evaluation_finished")
    assert evaluation["data"]["diversity"]["num_prompts"] == 1
    assert evaluation["data"]["heldout"]["kl"]["value"] is None  # no other prompt, so no mismatched pair


def test_identical_and_empty_samples_have_figures() -> None:
    same = [SampledText(text="the cat", truncated=False)] * 4
    empty = [SampledText(text="", truncated=False)] * 4
    result = diversity_result([PromptSamples(category="c", reference=same, policy=empty)], word_limit=100)
    assert result is not None
    assert (result.overall["similarity"].reference, result.overall["similarity"].policy) == (1.0, 1.0)
    assert (result.overall["distinct_k"].reference, result.overall["distinct_k"].policy) == (1.0, 1.0)
    assert result.overall["ead"].policy == 0.0


def test_the_cache_key_follows_template_and_precision(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama")
    settings = tiny.config()
    keys = [pins_of(policy, template, tmp_path, settings) for template in (None, DEFAULT_CHAT_TEMPLATE)]
    assert keys[0]["tokenizer"] != keys[1]["tokenizer"]
    policy.dtype = torch.bfloat16
    assert pins_of(policy, None, tmp_path, settings) != keys[0]
    disturb(policy)  # another adapter is not another reference
    policy.dtype = torch.float32
    assert pins_of(policy, None, tmp_path, settings) == keys[0]


def test_memory_that_runs_out_while_loading_is_not_called_a_bad_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_arguments: Any, **_options: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", exhausted)
    with pytest.raises(OSError, match="Cannot allocate") as caught:
        load_causal_lm(str(tmp_path), dtype="auto")
    assert classify(caught.value)[0] == "out_of_memory"


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 12 / 4), (True, 12 / 2)])
def test_lora_scaling(tmp_path: Path, rslora: bool, scaling: float) -> None:
    policy = policy_of(tmp_path, "llama", lora=LoraSettings(r=4, alpha=12, rslora=rslora))
    found = {layer.scaling["default"] for layer in policy.model.modules() if hasattr(layer, "lora_A")}
    assert found == {scaling}


# The disk ----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_disk_that_fills_up_keeps_the_checkpoints_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second checkpoint's state goes to a device that is always full: torch's writer meets the real error."""
    spec = tiny.spec(tmp_path)
    with monkeypatch.context() as patch:
        full = Evaluator(lambda: patch.setattr(checkpoints, "STATE", "/dev/full"))
        with pytest.raises(OSError, match="No space left") as caught:
            run(spec, full)
    assert classify(caught.value)[0] == "disk_full"
    folder = Path(spec.attempt_dir) / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-000003"]
    assert latest_valid_checkpoint(folder) == folder / "step-000003"
    assert validate_checkpoint(folder / "step-000003").step == 3
