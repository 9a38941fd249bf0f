"""The launch form carries every setting of a run: a clone is the same run."""

from __future__ import annotations

from dataclasses import fields

import pytest

from app.runs.forms import NESTED, LaunchForm
from worker.alignment.config import AlignmentConfig, ConfigError, EvaluationSettings, LoraSettings

UNUSUAL = AlignmentConfig(
    base_model="model",
    beta=0.2,
    desirable_weight=1.5,
    undesirable_weight=0.5,
    learning_rate=1e-4,
    lr_schedule="linear",
    warmup_ratio=0.2,
    weight_decay=0.1,
    adam_beta1=0.8,
    adam_beta2=0.99,
    adam_epsilon=1e-6,
    max_grad_norm=0.5,
    num_epochs=2.0,
    max_steps=7,
    batch_size=4,
    tokens_per_microbatch=512,
    max_length=64,
    attention="sdpa",
    precision="bfloat16",
    seed=3,
    num_threads=2,
    lora=LoraSettings(r=8, alpha=4, dropout=0.1, target_modules=("q_proj", "v_proj"), rslora=True),
    evaluation=EvaluationSettings(
        interval_steps=5,
        samples_per_prompt=3,
        prompts_per_category=1,
        max_categories=9,
        max_new_tokens=16,
        temperature=0.7,
        top_p=0.9,
        word_limit=50,
        seed=3,
    ),
)


def test_a_clone_typed_back_is_the_same_config() -> None:
    default = AlignmentConfig(base_model="other")
    for part, settings in (("", UNUSUAL), ("lora", UNUSUAL.lora), ("evaluation", UNUSUAL.evaluation)):
        usual = getattr(default, part) if part else default
        same = {field.name for field in fields(settings) if getattr(settings, field.name) == getattr(usual, field.name)}
        assert same <= {"objective"}  # every setting is put to the test
    typed = {name: str(value) for name, value in LaunchForm.of_config(UNUSUAL, snapshot_id=1).model_dump().items()}
    assert LaunchForm.parse(typed).to_config(base_model="model", advised=(1.0, 1.0)) == UNUSUAL


def test_every_inner_setting_has_a_field() -> None:
    assert set(NESTED["lora"]) == {field.name for field in fields(LoraSettings)}
    assert {*NESTED["evaluation"], "seed"} == {field.name for field in fields(EvaluationSettings)}


def test_a_run_of_an_older_version_can_be_cloned():
    stored = {**AlignmentConfig(base_model="m", beta=0.3).to_json(), "a_setting_of_old": "x"}
    assert AlignmentConfig.from_json(stored, drop_unknown=True).beta == 0.3
    with pytest.raises(ConfigError, match="a_setting_of_old"):
        AlignmentConfig.from_json(stored)
