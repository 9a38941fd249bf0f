"""Settings: what is out of range or unknown is named, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.alignment import tiny
from worker.alignment.config import AlignmentConfig, ConfigError, EvaluationSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("objective", "ppo"),
        ("attention", "flash3"),
        ("precision", "float16"),
        ("lr_schedule", "polynomial"),
        ("adam_beta1", 1.0),
        ("adam_beta2", -0.1),
        ("adam_epsilon", 0.0),
        ("seed", -1),
        ("num_threads", -1),
        ("beta", float("nan")),
        ("learning_rate", float("inf")),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny.config(**{name: value})
    assert set(caught.value.errors) == {name}


def test_inner_settings_are_named_with_their_part() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.top_p: must be above 0") as caught:
        tiny.config(evaluation=EvaluationSettings(top_p=0.0, seed=-1))
    assert set(caught.value.errors) == {"evaluation.top_p", "evaluation.seed"}


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="kl_range: is not a setting"):
        AlignmentConfig.from_json(tiny.config().to_json() | {"kl_range": "microbatch"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"beta": "0.1"}, "beta: must be of type float"),
        ({"batch_size": 8.0}, "batch_size: must be of type int"),
        ({"batch_size": True}, "batch_size: must be of type int"),
        ({"objective": 3}, "objective: must be of type str"),
        ({"desirable_weight": "2"}, "desirable_weight: must be of type float, or null"),
        ({"lora": 16}, "lora: must be an object of settings"),
        ({"lora": {"r": "16"}}, r"lora\.r: must be of type int"),
        ({"lora": {"target_modules": "q_proj"}}, r"lora\.target_modules: must be a list of names"),
        ({"lora": {"target_modules": [1]}}, r"lora\.target_modules: must be a list of names"),
        ({"allow_incomplete": 1}, "allow_incomplete: must be of type bool"),
    ],
)
def test_a_value_of_another_type_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}$"):
        AlignmentConfig.from_json(tiny.config().to_json() | change)


def test_a_setting_without_default_must_be_given() -> None:
    with pytest.raises(ConfigError, match="base_model: is missing"):
        AlignmentConfig.from_json({"beta": 0.2})


def test_whole_numbers_serve_as_floats_and_lists_as_tuples() -> None:
    built = AlignmentConfig.from_json({"base_model": "m", "beta": 1, "lora": {"target_modules": ["q_proj"]}})
    assert (built.beta, built.lora.target_modules, built.desirable_weight) == (1.0, ("q_proj",), None)
    assert AlignmentConfig.from_json(built.to_json()) == built
