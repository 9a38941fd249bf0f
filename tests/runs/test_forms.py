"""The launch form carries every setting of a run: a clone is the same run."""

from __future__ import annotations

from dataclasses import fields

import pytest

from app.core.errors import InvalidError
from app.runs.forms import NESTED, LaunchForm
from worker.alignment.config import AlignmentConfig, ConfigError, EvaluationSettings, LoraSettings

UNUSUAL = AlignmentConfig(
    base_model="model",
    objective="dpo",
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
    batch_size=16,
    data="paired",
    max_pairs_per_prompt=2,
    tokens_per_microbatch=512,
    max_length=64,
    kl_scope="microbatch",
    long_rows="refuse",
    allow_incomplete=True,
    bucket_steps=4,
    share_prefixes=False,
    checkpointing="selective",
    memory_limit_gib=12.5,
    compile=True,
    quantization="4bit",
    init_adapter="v3",
    reference="adapter",
    keep_best=5,
    attention="flex",
    precision="bfloat16",
    seed=3,
    num_threads=2,
    lora=LoraSettings(r=8, alpha=4, dropout=0.1, target_modules=("q_proj", "v_proj"), rslora=True, dora=True),
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
        diversity_suite="0" * 64,
        pause_on_alarm=False,
        encoder="/models/encoder",
    ),
)


def test_a_clone_typed_back_is_the_same_config() -> None:
    default = AlignmentConfig(base_model="other")
    for part, settings in (("", UNUSUAL), ("lora", UNUSUAL.lora), ("evaluation", UNUSUAL.evaluation)):
        usual = getattr(default, part) if part else default
        same = {field.name for field in fields(settings) if getattr(settings, field.name) == getattr(usual, field.name)}
        assert same <= {"parallel"}  # every setting of a worker's one process is put to the test
    typed = {name: str(value) for name, value in LaunchForm.of_config(UNUSUAL, snapshot_id=1).model_dump().items()}
    assert LaunchForm.parse(typed).to_config(base_model="model") == UNUSUAL


def test_weights_left_empty_stay_from_the_data() -> None:
    config = LaunchForm.parse({"desirable_weight": "", "undesirable_weight": ""}).to_config(base_model="m")
    assert (config.desirable_weight, config.undesirable_weight) == (None, None)
    assert LaunchForm.of_config(config, snapshot_id=1).to_config(base_model="m") == config


def test_a_version_to_start_from_needs_a_reference() -> None:
    with pytest.raises(InvalidError) as caught:
        LaunchForm.parse({"init_adapter": "v1"}).to_config(base_model="m")
    assert set(caught.value.fields) == {"reference"}
    config = LaunchForm.parse({"reference": "adapter"}).to_config(base_model="m")
    assert config.reference == "", "left over from a version that is no longer chosen"


def test_every_inner_setting_has_a_field() -> None:
    assert set(NESTED["lora"]) == {field.name for field in fields(LoraSettings)}
    assert {*NESTED["evaluation"], "seed"} == {field.name for field in fields(EvaluationSettings)}


def test_a_run_of_an_older_version_can_be_cloned():
    stored = {**AlignmentConfig(base_model="m", beta=0.3).to_json(), "a_setting_of_old": "x"}
    assert AlignmentConfig.from_json(stored, drop_unknown=True).beta == 0.3
    with pytest.raises(ConfigError, match="a_setting_of_old"):
        AlignmentConfig.from_json(stored)
