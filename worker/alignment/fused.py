"""A LoRA layer as one autograd node.

peft adds three elementwise passes over each layer's output (dropout, scaling, sum), and autograd keeps what they need. Here
the scaling and the sum ride inside the products, only the input and its projection on the adapter are kept, and the adapter
works in the base model's dtype (its weights and gradients stay float32). Anything that is not plain LoRA on a frozen linear
layer (DoRA, active dropout, a merged or quantised layer) goes through peft's own forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor
from torch.nn import functional

_enabled = True


def fuse(model: Any) -> None:
    """Let every plain LoRA layer of a peft model run as one node."""
    for layer in model.modules():
        if type(layer) is LoraLinear and type(layer.base_layer) is torch.nn.Linear:
            layer.forward = _FusedForward(layer)


@contextmanager
def unfused() -> Iterator[None]:
    """Within the block layers run peft's own forward: what the start-of-run probe compares with."""
    global _enabled  # noqa: PLW0603 - layers of all models read it, in whatever thread backward runs
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def is_fused() -> bool:
    """False inside ``unfused()``."""
    return _enabled


class _FusedForward:
    """Stands in for a LoRA layer's bound ``forward``."""

    def __init__(self, layer: LoraLinear) -> None:
        self._layer = layer
        self._plain = layer.forward

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        layer = self._layer
        if not _enabled or args or kwargs or layer.merged:
            return self._plain(x, *args, **kwargs)
        if layer.disable_adapters:
            return layer.base_layer(x)
        names = layer.active_adapters
        if len(names) != 1 or not _is_plain(layer, names[0]):
            return self._plain(x)
        base, name = layer.base_layer, names[0]
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        return _LoraLinear.apply(x, base.weight, base.bias, a, b, layer.scaling[name])  # type: ignore[no-untyped-call]


def _is_plain(layer: LoraLinear, name: str) -> bool:
    if name not in layer.lora_A or name in getattr(layer, "lora_variant", {}) or layer.lora_bias.get(name, False):
        return False
    if layer.base_layer.weight.requires_grad:
        return False
    dropout = layer.lora_dropout[name]
    return not dropout.training or not getattr(dropout, "p", 0.0)


class _LoraLinear(torch.autograd.Function):
    """y = x W' + bias + scale (x A') B'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        a_RI, b_OR = a.to(x.dtype), b.to(x.dtype)
        down_NR = x_NI @ a_RI.t()
        y_NO = functional.linear(x_NI, weight, bias).addmm_(down_NR, b_OR.t(), alpha=scale)
        ctx.save_for_backward(x_NI, down_NR, weight, a, b)
        ctx.scale = scale
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, Tensor | None, None]:
        x_NI, down_NR, weight, a, b = ctx.saved_tensors
        grad_NO = grad.reshape(-1, grad.shape[-1])
        up_NR = (grad_NO @ b.to(grad.dtype)).mul_(ctx.scale)
        grad_a = (up_NR.t() @ x_NI).to(a.dtype) if ctx.needs_input_grad[3] else None
        grad_b = (grad_NO.t() @ down_NR).mul_(ctx.scale).to(b.dtype) if ctx.needs_input_grad[4] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_NO @ weight).addmm_(up_NR, a.to(grad.dtype)).view(*grad.shape[:-1], -1)
        return grad_x, None, None, grad_a, grad_b, None
