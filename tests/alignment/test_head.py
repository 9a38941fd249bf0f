"""The tiled head against autograd through the whole vocabulary."""

from __future__ import annotations

import pytest
import torch

from worker.alignment.logps import Head, frozen_head_logps, sum_by_row


def layer(vocab: int, hidden: int, *, bias: bool = True) -> torch.nn.Linear:
    torch.manual_seed(0)
    made = torch.nn.Linear(hidden, vocab, bias=bias, dtype=torch.float64)
    torch.nn.init.normal_(made.weight)
    return made.requires_grad_(requires_grad=False)


def dense(hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
    raw = head.scale * head.layer(hidden)
    capped = raw if head.softcap is None else head.softcap * torch.tanh(raw / head.softcap)
    return capped.log_softmax(-1)[torch.arange(len(targets)), targets]


@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"softcap": 2.0}, {"scale": 0.3, "softcap": 2.0}])
@pytest.mark.parametrize("tile", [(1, 1), (3, 4), (100, 5), (100, 100)])
@pytest.mark.parametrize("bias", [True, False])
def test_log_probs_and_gradient_equal_autograd(options: dict[str, float], tile: tuple[int, int], *, bias: bool) -> None:
    head = Head(layer(11, 5, bias=bias), **options)
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    targets, upstream = torch.randint(11, (7,)), torch.randn(7, dtype=torch.float64)
    logps = frozen_head_logps(hidden, targets, head, tile=tile)
    (ours,) = torch.autograd.grad(logps, hidden, upstream)
    expected = dense(hidden, targets, head)
    (theirs,) = torch.autograd.grad(expected, hidden, upstream)
    assert torch.allclose(logps, expected)
    assert torch.allclose(ours, theirs)
    with torch.no_grad():
        assert torch.equal(frozen_head_logps(hidden, targets, head, tile=tile), logps)


@pytest.mark.parametrize("descending", [True, False])
def test_logits_far_apart_neither_overflow_nor_vanish(*, descending: bool) -> None:
    """The running maximum moves by hundreds between tiles, up or down."""
    head = Head(layer(6, 1, bias=False))
    heights = torch.tensor([-300.0, -90.0, 0.0, 30.0, 80.0, 400.0]).double()
    head.layer.weight.data = (heights.flip(0) if descending else heights)[:, None]
    hidden = torch.ones(6, 1, dtype=torch.float64).float().requires_grad_()
    head.layer.float()
    targets = torch.arange(6)
    logps = frozen_head_logps(hidden, targets, head, tile=(6, 1))
    expected = dense(hidden, targets, head)
    assert torch.allclose(logps, expected)
    (ours,) = torch.autograd.grad(logps.sum(), hidden)
    (theirs,) = torch.autograd.grad(expected.sum(), hidden)
    assert torch.allclose(ours, theirs)


def test_half_precision_keeps_float32_sums() -> None:
    head = Head(layer(4000, 64, bias=False).bfloat16())
    hidden = (0.2 * torch.randn(50, 64)).bfloat16()
    targets = torch.randint(4000, (50,))
    found = frozen_head_logps(hidden, targets, head, tile=(50, 128))
    exact = dense(hidden.double(), targets, Head(layer(4000, 64, bias=False).bfloat16().double()))
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max()) < 1e-4  # a bfloat16 log-softmax is off by 0.03 here
    assert (
        float((hidden @ head.layer.weight.T).log_softmax(-1)[torch.arange(50), targets].sub(exact).abs().max()) > 0.01
    )


def test_sum_by_row() -> None:
    assert sum_by_row(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 1])).tolist() == [3.0, 4.0]
