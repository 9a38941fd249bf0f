"""Settings: what is out of range or unknown is named, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.alignment import tiny
from worker.alignment.config import AlignmentConfig, ConfigError, EvaluationSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("objective", "dpo"),
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


def test_a_choice_that_is_not_built_is_no_setting() -> None:
    """z0 is pooled over the optimizer step; there is no other scope to choose."""
    with pytest.raises(ConfigError, match="kl_range: is not a setting"):
        AlignmentConfig.from_json(tiny.config().to_json() | {"kl_range": "microbatch"})
