from __future__ import annotations

import math

import pytest
import torch

from worker.alignment.losses import kto_loss, pooled_kl


def test_hand_worked_numbers() -> None:
    # r = (2, -1, 1), z0 = 0.5, beta = 0.1: x = sign * beta * (r - z0) = (0.15, 0.15, -0.05) for labels (D, U, U)
    policy = torch.tensor([-10.0, -21.0, -4.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-12.0, -20.0, -5.0], dtype=torch.float64)
    result = kto_loss(
        policy,
        reference,
        torch.tensor([True, False, False]),
        torch.tensor(0.5, dtype=torch.float64),
        beta=0.1,
        desirable_weight=2.0,
        undesirable_weight=1.0,
    )
    # 1 - sigmoid(0.15) = 0.4625702, 1 - sigmoid(-0.05) = 0.5124974
    assert result.losses.tolist() == pytest.approx([0.9251404, 0.4625702, 0.5124974], abs=1e-7)
    assert result.rewards.tolist() == pytest.approx([0.2, -0.1, 0.1])
    result.losses.sum().backward()  # type: ignore[no-untyped-call]
    s, t = 1 / (1 + math.exp(-0.15)), 1 / (1 + math.exp(0.05))
    expected = [-2 * 0.1 * s * (1 - s), 0.1 * s * (1 - s), 0.1 * t * (1 - t)]
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx(expected)


def test_one_class_alone_gives_finite_numbers() -> None:
    result = kto_loss(torch.zeros(2), torch.zeros(2), torch.tensor([False, False]), torch.tensor(0.0), beta=0.1)
    assert result.losses.tolist() == [0.5, 0.5]


def test_no_gradient_flows_through_z0() -> None:
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    kl = pooled_kl(values)
    assert not kl.clamped.requires_grad
    policy = torch.zeros(1, requires_grad=True)
    kto_loss(policy, torch.zeros(1), torch.tensor([True]), values.mean(), beta=0.1).losses.sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is None


def test_kl_is_clamped_once_after_averaging() -> None:
    assert float(pooled_kl(torch.tensor([-3.0, 5.0])).clamped) == 1.0  # clamping each first would give 2.5
    below = pooled_kl(torch.tensor([-3.0, 1.0]))
    assert float(below.clamped) == 0.0
    assert float(below.raw) == -1.0
    assert float(below.standard_error) == pytest.approx(2.0)


def test_kl_of_no_pairs_is_zero() -> None:
    assert float(pooled_kl(torch.zeros(0)).clamped) == 0.0
