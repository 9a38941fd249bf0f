"""What happens between a gradient and the next adapter: schedule, clipping and AdamW, against the formulae by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from tests.alignment import tiny
from tests.alignment.steps import scored
from tests.alignment.test_runs import adapter, run, told
from worker.alignment.dataset import load_split
from worker.alignment.policy import load_policy
from worker.alignment.schedule import learning_rate, total_steps
from worker.alignment.step import StepSettings, backward_step
from worker.alignment.weights import resolve_weights


@pytest.mark.parametrize(
    ("name", "theirs"), [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)]
)
def test_the_schedule_is_that_of_transformers_without_its_idle_first_step(name: Any, theirs: Any) -> None:
    """transformers warms up from a rate of 0, which wastes the first step; ours begins one notch up."""
    config = tiny.config(lr_schedule=name, warmup_ratio=0.2, learning_rate=1.0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = theirs(optimizer, num_warmup_steps=10, num_training_steps=50)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    ours = [learning_rate(config, step, 50) for step in range(50)]
    assert ours[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert ours[10:] == pytest.approx(rates[10:])
    assert 0 < ours[-1] < 0.05


def test_constant_schedule_and_no_warm_up() -> None:
    constant = tiny.config(lr_schedule="constant", warmup_ratio=0.0, learning_rate=0.5)
    assert {learning_rate(constant, step, 9) for step in range(9)} == {0.5}
    assert learning_rate(tiny.config(warmup_ratio=0.0, learning_rate=0.5), 0, 9) == 0.5
    assert learning_rate(tiny.config(warmup_ratio=0.9, learning_rate=0.5), 0, 1) == 0.5  # a run of one step moves


@pytest.mark.parametrize(
    ("epochs", "limit", "rows", "steps"), [(1.0, 0, 40, 5), (1.0, 0, 41, 6), (1.5, 0, 40, 8), (0.1, 0, 3, 1), (3.0, 7, 40, 7)]
)  # fmt: skip
def test_number_of_steps(epochs: float, limit: int, rows: int, steps: int) -> None:
    assert total_steps(tiny.config(num_epochs=epochs, max_steps=limit, batch_size=8), rows) == steps


def test_two_steps_equal_clipped_adamw_by_hand(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "max_steps": 2,
        "batch_size": 64,  # all rows in each step
        "learning_rate": 0.02,
        "lr_schedule": "linear",
        "warmup_ratio": 0.0,
        "weight_decay": 0.3,
        "adam_beta1": 0.7,
        "adam_beta2": 0.8,
        "adam_epsilon": 1e-3,
        "max_grad_norm": 0.05,
    }
    spec = tiny.spec(tmp_path, **settings)
    run(spec)
    norms = [event["data"]["grad_norm"] for event in told(spec, "metrics")]
    assert min(norms) > 2 * 0.05  # clipping is at work

    policy = load_policy(spec.model_path, spec.config)
    rows = load_split(tmp_path / "snapshot" / "train.jsonl", policy.tokenizer, max_length=128).rows
    split = scored(tmp_path / "own", policy, rows)
    settings_of_step = StepSettings.of(spec.config, resolve_weights(spec.config, [row.label for row in rows]))
    names = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    first = {name: torch.zeros(()) for name in names}
    second = dict(first)
    for number, rate in enumerate((0.02, 0.01), 1):
        policy.model.zero_grad()
        backward_step(policy, split.batch(range(len(rows))), settings_of_step)
        parameters = {name: policy.model.get_parameter(name) for name in names}
        grads = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
        norm = math.sqrt(sum(float(grad.double().square().sum()) for grad in grads.values()))
        assert norm == pytest.approx(norms[number - 1], rel=1e-3)
        for name, parameter in parameters.items():
            grad = grads[name] * 0.05 / norm
            first[name] = 0.7 * first[name] + 0.3 * grad
            second[name] = 0.8 * second[name] + 0.2 * grad.square()
            move = (first[name] / (1 - 0.7**number)) / ((second[name] / (1 - 0.8**number)).sqrt() + 1e-3)
            parameter.data = parameter.data * (1 - rate * 0.3) - rate * move
    saved = adapter(spec, 2)
    for name in names:
        ours = saved[name.replace(".default.", ".")]
        assert torch.allclose(ours, policy.model.get_parameter(name), atol=2e-5), name
