"""torch.compile for the repeated layers: one graph serves all layers and all lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from worker.alignment.attention import NAME
from worker.alignment.errors import ModelError
from worker.alignment.fused import is_fused

MAX_VARIANTS = 64
"""Graphs kept for one layer's code: gradient on and off, policy and reference, kinds of attention, a length of one."""


def compile_layers(lm: Any, *, backend: str = "inductor") -> int:
    """Compile each decoder layer of a causal LM in place, adapters included; returns the number of layers.

    Layers share their code, so that the first one's graphs serve the rest, and lengths are symbols in them: another
    batch compiles nothing. Packed attention stays outside, because a graph of it would be one pack's alone; sampling
    and the start-of-run witness run as written. Call after the adapters were added and before layers are checkpointed.
    """
    layers = [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError("compile: this model has no layers that could be compiled one by one; set it to false.")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_VARIANTS)  # noqa: SLF001
    ALL_ATTENTION_FUNCTIONS.register(NAME, torch.compiler.disable(ALL_ATTENTION_FUNCTIONS[NAME]))  # type: ignore[no-untyped-call]
    for layer in layers:
        layer.forward = _Compiled(layer.forward, backend)
    return len(layers)


class _Compiled:
    """Stands in for a layer's bound ``forward``."""

    def __init__(self, plain: Callable[..., Any], backend: str) -> None:
        self._plain = plain
        self._compiled = torch.compile(plain, dynamic=True, backend=backend)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("past_key_values") is not None or not is_fused():
            return self._plain(*args, **kwargs)
        return self._compiled(*args, **kwargs)
