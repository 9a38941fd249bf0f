from __future__ import annotations

import math

import pytest
import torch

from worker.alignment.losses import LossSettings, kl_sums, losses, pooled_kl
from worker.alignment.step import StepResult, step_metrics


def z0_of(*values: float) -> torch.Tensor:
    return pooled_kl(kl_sums(torch.tensor(values))).clamped


def test_hand_worked_kto() -> None:
    # r = (2, -1, 1), z0 = 0.5, beta = 0.1: x = sign * beta * (r - z0) = (0.15, 0.15, -0.05) for labels (D, U, U)
    policy = torch.tensor([-10.0, -21.0, -4.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-12.0, -20.0, -5.0], dtype=torch.float64)
    labels, z0 = torch.tensor([True, False, False]), torch.tensor(0.5, dtype=torch.float64)
    found = losses(LossSettings(beta=0.1, desirable_weight=2.0), policy, reference, labels, z0, denominator=4)
    # 2 (1 - sigmoid(0.15)) + (1 - sigmoid(0.15)) + (1 - sigmoid(-0.05)) = 0.9251404 + 0.4625702 + 0.5124974
    assert float(found.total.detach()) == pytest.approx(1.9002080 / 4, abs=1e-7)
    assert found.rewards.tolist() == pytest.approx([0.2, -0.1, 0.1])
    found.total.backward()  # type: ignore[no-untyped-call]
    s, t = 1 / (1 + math.exp(-0.15)), 1 / (1 + math.exp(0.05))
    expected = [-2 * 0.1 * s * (1 - s) / 4, 0.1 * s * (1 - s) / 4, 0.1 * t * (1 - t) / 4]
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx(expected)


def test_hand_worked_dpo() -> None:
    # beta (r_w - r_l) = 0.5 (2 - -1) = 1.5 and 0.5 (0 - 1) = -0.5
    policy = torch.tensor([-10.0, -21.0, -4.0, -4.0], dtype=torch.float64)
    reference = torch.tensor([-12.0, -20.0, -4.0, -5.0], dtype=torch.float64)
    labels = torch.tensor([True, False, True, False])
    settings = LossSettings(objective="dpo", beta=0.5)
    found = losses(settings, policy, reference, labels, torch.zeros(()), denominator=2)
    assert float(found.total) == pytest.approx((math.log1p(math.exp(-1.5)) + math.log1p(math.exp(0.5))) / 2)


def test_apo_ignores_z0_and_sft_the_reference() -> None:
    policy, reference = torch.tensor([-3.0]), torch.tensor([-5.0])
    label, far = torch.tensor([True]), torch.tensor(9.0)
    apo = losses(LossSettings(objective="apo_zero_unpaired"), policy, reference, label, far, denominator=1)
    assert float(apo.total) == pytest.approx(1 - 1 / (1 + math.exp(-0.2)))
    sft = losses(LossSettings(objective="sft"), policy, reference, label, far, denominator=6)
    assert float(sft.total) == pytest.approx(0.5)


@pytest.mark.parametrize("label", [True, False])
def test_trap_04_one_class_alone_gives_finite_numbers(*, label: bool) -> None:
    labels = torch.tensor([label, label])
    found = losses(LossSettings(), torch.zeros(2), torch.zeros(2), labels, torch.tensor(0.0), denominator=2)
    assert float(found.total) == 0.5
    rewards = torch.tensor([0.2, 0.4])
    result = StepResult(loss=0.5, kl=None, logps=rewards - 9, rewards=rewards, accuracy=None, bad_ids=[])
    metrics = step_metrics(result, [label, label])
    name = "chosen" if label else "rejected"
    assert set(metrics) == {"loss", f"logps/{name}", f"rewards/{name}"}
    assert metrics[f"rewards/{name}"] == pytest.approx(0.3)


def test_no_gradient_flows_through_z0() -> None:
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    assert not pooled_kl(kl_sums(values)).clamped.requires_grad
    policy = torch.zeros(1, requires_grad=True)
    found = losses(LossSettings(), policy, torch.zeros(1), torch.tensor([True]), values.mean(), denominator=1)
    found.total.backward()  # type: ignore[no-untyped-call]
    assert values.grad is None


def test_trap_05_kl_is_clamped_once_after_averaging() -> None:
    assert float(z0_of(-3.0, 5.0)) == 1.0  # clamping each first would give 2.5
    below = pooled_kl(kl_sums(torch.tensor([-3.0, 1.0])))
    assert float(below.clamped) == 0.0
    assert float(below.raw) == -1.0
    assert float(below.standard_error) == pytest.approx(2.0)


def test_sums_of_ragged_ranks_give_the_mean_of_all() -> None:
    ranks = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([5.0]), torch.zeros(0)]
    joined, whole = pooled_kl(sum(kl_sums(rank) for rank in ranks)), pooled_kl(kl_sums(torch.cat(ranks)))  # type: ignore[arg-type]
    assert float(joined.raw) == float(whole.raw) == 3.5
    assert float(joined.standard_error) == pytest.approx(torch.cat(ranks).std().item() / 2)


def test_kl_of_no_pairs_is_zero_and_of_one_has_no_error() -> None:
    assert float(z0_of()) == 0.0
    assert math.isnan(float(pooled_kl(kl_sums(torch.tensor([2.0]))).standard_error))
