"""Token log-probabilities under a frozen head, with the gradient computed in the forward pass.

Every loss here needs d logp / d hidden only, and its gradient is one scalar per sequence. So the head goes through the
vocabulary once, tile by tile, as attention goes through keys: a running maximum, the sum of exponentials, and the sum of
exponentials times the tile's weights. That gives the log-probability and at once the vector G = d logp / d hidden; backward
is G * grad. Two products with the head per token where autograd needs three, and nothing of size [tokens, vocabulary] is
ever alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_SHIFT = 40.0
"""On a CPU the running maximum moves only when a logit exceeds it by this much: exp(40) is far from float32's limit."""


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A frozen output layer: logits = softcap * tanh(u / softcap), u = scale * (hidden @ weight.T + bias)."""

    layer: torch.nn.Linear
    scale: float = 1.0
    """Cohere's ``logit_scale``, Granite's 1 / ``logits_scaling``."""
    softcap: float | None = None
    """Gemma's ``final_logit_softcapping``."""

    @classmethod
    def of(cls, lm: Any) -> Head | None:
        """Read the head of a Hugging Face causal LM; None where it is not one frozen linear layer."""
        layer = lm.get_output_embeddings()
        if type(layer) is not torch.nn.Linear or layer.weight.requires_grad:
            return None
        config = lm.config.get_text_config()
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        softcap = getattr(config, "final_logit_softcapping", None)
        return cls(layer, scale, float(softcap) if softcap else None)

    def logits(self, hidden_NH: Tensor, start: int, stop: int) -> Tensor:
        """Logits of a tile of the vocabulary, [N, stop - start] in float32 (float64 for float64 models)."""
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        logits_NV = product(hidden_NH, self.layer.weight[start:stop].t(), wide)
        if self.layer.bias is not None:
            logits_NV += self.layer.bias[start:stop]
        if self.scale != 1.0:
            logits_NV *= self.scale
        if self.softcap is not None:
            logits_NV = logits_NV.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_NV

    def picked(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """The targets' logits, [N], without the rest of the vocabulary."""
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        logits_N = (hidden_NH.to(wide) * self.layer.weight[targets_N]).sum(1)
        if self.layer.bias is not None:
            logits_N = logits_N + self.layer.bias[targets_N]
        logits_N = logits_N * self.scale
        return logits_N if self.softcap is None else (logits_N / self.softcap).tanh() * self.softcap

    def slope(self, logits_N: Tensor) -> Tensor | float:
        """Derivative of the logits by hidden @ weight.T, elementwise."""
        return self.scale if self.softcap is None else (1 - (logits_N / self.softcap) ** 2) * self.scale


def product(a: Tensor, b: Tensor, wide: torch.dtype) -> Tensor:
    """The product a @ b with a result in ``wide``: log-sums of half-precision logits are off by nats."""
    if a.dtype == wide:
        return torch.mm(a, b)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=wide)
    return torch.mm(a.to(wide), b.to(wide))  # a CPU has no product of half-precision factors that keeps float32


def frozen_head_logps(
    hidden_NH: Tensor, targets_N: Tensor, head: Head, *, tile: tuple[int, int] | None = None
) -> Tensor:
    """Token log-probabilities log p(target) per position, [N] in float32 (float64 for float64 models).

    ``hidden_NH`` are the final hidden states at the positions before each target. ``tile`` is (positions, vocabulary) scored
    at once; by default 4 MiB of float32 logits on a CPU (they stay in its cache) and up to 512 MiB on a GPU.
    """
    if tile is None:
        tile = (8192, 16384) if hidden_NH.is_cuda else (512, 2048)
    logps_N: Tensor = _FrozenHeadLogp.apply(hidden_NH, targets_N, head, tile)  # type: ignore[no-untyped-call]
    return logps_N


def sum_by_row(token_logps_N: Tensor, lengths_B: Tensor) -> Tensor:
    """Sum consecutive runs of ``lengths_B`` tokens: [B]. Deterministic on every device, unlike index_add."""
    # Unsafe: without the check of lengths, for which the host would wait.
    return torch.segment_reduce(token_logps_N, "sum", lengths=lengths_B, unsafe=True)


class _FrozenHeadLogp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, targets_N: Tensor, head: Head, tile: tuple[int, int]) -> Tensor:
        needs_grad = ctx.needs_input_grad[0]
        parts = [
            _score(hidden_CH, targets_C, head, tile[1], needs_grad=needs_grad)
            for hidden_CH, targets_C in zip(
                torch.split(hidden_NH, tile[0]), torch.split(targets_N, tile[0]), strict=True
            )
        ]
        if needs_grad:
            ctx.save_for_backward(torch.cat([slope for _, slope in parts if slope is not None]))
        return torch.cat([logps for logps, _ in parts])

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, None, None, None]:
        (slope_NH,) = ctx.saved_tensors
        return (slope_NH * grad_N[:, None]).to(slope_NH.dtype), None, None, None


def _score(
    hidden_CH: Tensor, targets_C: Tensor, head: Head, width: int, *, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [C] and their slopes d logp / d hidden [C, H], one pass over the vocabulary."""
    weight_VH = head.layer.weight
    wide = torch.promote_types(hidden_CH.dtype, torch.float32)
    highest_C = sum_C = torch.zeros((), dtype=wide, device=hidden_CH.device)
    mean_CH = None  # of the weights under the softmax, times sum_C
    for start in range(0, weight_VH.shape[0], width):
        stop = min(start + width, weight_VH.shape[0])
        logits_CW = head.logits(hidden_CH, start, stop)
        slope = head.slope(logits_CW) if needs_grad else 1.0
        tile_C = logits_CW.amax(1)
        if start == 0:
            highest_C, sum_C = tile_C, torch.zeros_like(tile_C)
        elif logits_CW.is_cuda or bool((tile_C - highest_C > MAX_SHIFT).any()):  # a GPU must not wait for the answer
            new_C = torch.maximum(highest_C, tile_C)
            shrink_C = (highest_C - new_C).exp_()
            highest_C, sum_C = new_C, sum_C * shrink_C
            mean_CH = mean_CH.mul_(shrink_C[:, None]) if mean_CH is not None else None
        weights_CW = logits_CW.sub_(highest_C[:, None]).exp_()
        sum_C = sum_C + weights_CW.sum(1)
        if needs_grad:
            weights_CW = weights_CW if isinstance(slope, float) else weights_CW.mul_(slope)
            part_CH = weights_CW.to(weight_VH.dtype), weight_VH[start:stop]
            if mean_CH is None:
                mean_CH = product(*part_CH, wide)
            elif part_CH[0].dtype == wide:
                mean_CH.addmm_(*part_CH)
            else:
                mean_CH += product(*part_CH, wide)
    picked_C = head.picked(hidden_CH, targets_C)
    logps_C = picked_C - (highest_C + sum_C.log())
    if mean_CH is None:
        return logps_C, None
    if head.softcap is None and head.scale != 1.0:
        mean_CH *= head.scale
    own = head.slope(picked_C)
    own_CH = weight_VH[targets_C] * (own[:, None] if isinstance(own, Tensor) else own)
    return logps_C, (own_CH - mean_CH.div_(sum_C[:, None])).to(hidden_CH.dtype)
