"""A LoRA layer, and a gated MLP's product, each as one autograd node.

peft adds three elementwise passes over each layer's output (dropout, scaling, sum), and autograd keeps what they need. Here
the scaling and the sum ride inside the products, only the input and its projection on the adapter are kept, and the adapter
works in the base model's dtype (its weights and gradients stay float32). Anything that is not plain LoRA on a frozen linear
layer (DoRA, active dropout, a merged or quantised layer) goes through peft's own forward.

A gated MLP keeps act(gate) beside gate and up for the backward of their product; here it is computed again.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaMLP

_enabled = True


def fuse(model: Any) -> None:
    """Let every plain LoRA layer of a peft model, and every gated MLP of Llama's kind, run as one node."""
    for module in model.modules():
        if type(module) is LoraLinear and type(module.base_layer) is torch.nn.Linear:
            module.forward = _FusedLora(module)
        elif same_code(type(module), LlamaMLP):  # down(act(gate(x)) * up(x))
            module.forward = _FusedGate(module)


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


class _FusedLora:
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
        x_NI = x.reshape(-1, x.shape[-1])
        y_NO = _LoraLinear.apply(x_NI, base.weight, base.bias, a, b, layer.scaling[name])  # type: ignore[no-untyped-call]
        # Viewed out here: some models add to the output in place, which a view made inside the node forbids.
        return y_NO.view(*x.shape[:-1], -1)


def same_code(one: type, other: type) -> bool:
    """Whether two classes have the same ``forward``, instruction by instruction, under whatever decorators."""
    if not hasattr(one, "forward"):
        return False
    a, b = (getattr(inspect.unwrap(each.forward), "__code__", None) for each in (one, other))  # type: ignore[attr-defined]
    return a is not None and b is not None and (a.co_code, a.co_names) == (b.co_code, b.co_names)


class _FusedGate:
    """Stands in for a gated MLP's bound ``forward``."""

    def __init__(self, mlp: Any) -> None:
        self._mlp = mlp
        self._plain = mlp.forward

    def __call__(self, x: Tensor) -> Any:
        mlp = self._mlp
        if not _enabled or torch.compiler.is_compiling():  # whose graph the product would break, and who knows it, too
            return self._plain(x)
        return mlp.down_proj(_GatedProduct.apply(mlp.gate_proj(x), mlp.up_proj(x), mlp.act_fn))  # type: ignore[no-untyped-call]


class _GatedProduct(torch.autograd.Function):
    """Product act(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Any) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        product: Tensor = act(gate) * up
        return product

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            own = gate.detach().requires_grad_()
            active = ctx.act(own)
        (grad_gate,) = torch.autograd.grad(active, own, grad * up)
        return grad_gate, grad * active.detach(), None


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
    def forward(
        ctx: Any, x_NI: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        a_RI, b_OR = a.to(x_NI.dtype), b.to(x_NI.dtype)
        down_NR = x_NI @ a_RI.t()
        y_NO = functional.linear(x_NI, weight, bias).addmm_(down_NR, b_OR.t(), alpha=scale)
        ctx.save_for_backward(x_NI, down_NR, weight, a, b)
        ctx.scale = scale
        return y_NO

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, None, None, Tensor | None, Tensor | None, None]:
        x_NI, down_NR, weight, a, b = ctx.saved_tensors
        up_NR = (grad_NO @ b.to(grad_NO.dtype)).mul_(ctx.scale)
        grad_a = (up_NR.t() @ x_NI).to(a.dtype) if ctx.needs_input_grad[3] else None
        grad_b = (grad_NO.t() @ down_NR).mul_(ctx.scale).to(b.dtype) if ctx.needs_input_grad[4] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_NO @ weight).addmm_(up_NR, a.to(grad_NO.dtype))
        return grad_x, None, None, grad_a, grad_b, None
