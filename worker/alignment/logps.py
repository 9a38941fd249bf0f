"""Token log-probabilities under a frozen head, with the gradient computed in the forward pass.

KTO needs d logp / d hidden only, and its loss gradient is one scalar per sequence. So each chunk of positions makes its
logits once, takes the log-probability and at once the vector G = d logp / d hidden; backward is G * grad. Two products
with the head per token where autograd needs three, and nothing of size [tokens, vocabulary] outlives its chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A frozen output layer: logits = softcap * tanh(u / softcap), u = scale * (hidden @ weight.T + bias)."""

    weight: Tensor
    bias: Tensor | None = None
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
        return cls(layer.weight, layer.bias, scale, float(softcap) if softcap else None)

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """[N, V] in float32 (float64 for float64 models): log-sums of half-precision logits are off by nats."""
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        if hidden_NH.is_cuda and hidden_NH.dtype != wide:
            logits_NV = torch.mm(hidden_NH, self.weight.t(), out_dtype=wide)
        else:  # a CPU has no product of half-precision factors that keeps float32
            logits_NV = torch.mm(hidden_NH.to(wide), self.weight.t().to(wide))
        if self.bias is not None:
            logits_NV += self.bias
        if self.scale != 1.0:
            logits_NV *= self.scale
        if self.softcap is not None:
            logits_NV = logits_NV.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_NV


def frozen_head_logps(hidden_NH: Tensor, targets_N: Tensor, head: Head, *, chunk: int = 0) -> Tensor:
    """Token log-probabilities log p(target) per position, [N] in float32 (float64 for float64 models).

    ``hidden_NH`` are the final hidden states at the positions before each target. ``chunk`` is the number of positions
    scored at once; 0 chooses about 64 MiB of logits on CPU and 1 GiB on a GPU.
    """
    if chunk <= 0:
        size = (1 << 28 if hidden_NH.is_cuda else 1 << 24) // head.weight.shape[0]
        chunk = max(64, min(8192, size))
    logps_N: Tensor = _FrozenHeadLogp.apply(hidden_NH, targets_N, head, chunk)  # type: ignore[no-untyped-call]
    return logps_N


def sum_by_row(token_logps_N: Tensor, lengths_B: Tensor) -> Tensor:
    """Sum consecutive runs of ``lengths_B`` tokens: [B]. Deterministic on every device, unlike index_add."""
    return torch.segment_reduce(token_logps_N, "sum", lengths=lengths_B)


class _FrozenHeadLogp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, targets_N: Tensor, head: Head, chunk: int) -> Tensor:
        needs_grad = ctx.needs_input_grad[0]
        logps: list[Tensor] = []
        slopes: list[Tensor] = []
        for hidden_CH, targets_C in zip(torch.split(hidden_NH, chunk), torch.split(targets_N, chunk), strict=True):
            logits_CV = head.logits(hidden_CH)
            picked_C = logits_CV.gather(1, targets_C[:, None]).squeeze(1)
            norm_C = logits_CV.logsumexp(1)
            logps.append(picked_C - norm_C)
            if needs_grad:
                slopes.append(_slope(logits_CV, norm_C, targets_C, head).to(hidden_NH.dtype))
        if needs_grad:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, None, None, None]:
        (slope_NH,) = ctx.saved_tensors
        return (slope_NH * grad_N[:, None]).to(slope_NH.dtype), None, None, None


def _slope(logits_CV: Tensor, norm_C: Tensor, targets_C: Tensor, head: Head) -> Tensor:
    """Slope d logp / d hidden, [C, H]: (onehot - softmax) through the soft-cap and the scale, times the head's weight."""
    slope_CV = (logits_CV - norm_C[:, None]).exp_().neg_()
    slope_CV.scatter_add_(1, targets_C[:, None], torch.ones_like(norm_C)[:, None])
    if head.softcap is not None:
        slope_CV *= 1 - (logits_CV / head.softcap) ** 2
    if head.scale != 1.0:
        slope_CV *= head.scale
    return torch.mm(slope_CV.to(head.weight.dtype), head.weight)
