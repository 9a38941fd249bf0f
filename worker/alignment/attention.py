"""Attention over packed sequences: one row of tokens [1, T] holds many sequences, none sees another, nothing is padded.

Registered with transformers under one name; a model runs it only inside ``packed(...)`` and keeps its own attention for
everything else (generation, the padded path). The mask library makes no mask for a name it does not know, so no [T, T]
tensor exists. A layer that needs what a backend cannot do (a soft-cap in SDPA) is computed explicitly; models that mix
tokens outside attention (convolutions, linear attention) cannot be packed, and the start-of-run probe finds them.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from worker.alignment.config import Attention

Backend = Literal["flash", "varlen", "sdpa"]
NAME = "kto_packed"
WORDS: dict[Backend, str] = {
    "flash": "flash-attn, packed",
    "varlen": "PyTorch varlen attention, packed",
    "sdpa": "SDPA per sequence, packed",
}


@dataclass(slots=True, eq=False)
class PackedLayout:
    """Where the sequences of a packed row begin and end."""

    lengths: list[int]
    backend: Backend
    offsets: Tensor
    """[B + 1] int32 on the device: cumulative lengths."""
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    """Sliding-window masks by (length, window), shared by the layers of one forward."""


def choose_backend(setting: Attention, device: torch.device, dtype: torch.dtype) -> Backend | None:
    """The packed backend for a setting; None means the padded path with the model's own attention.

    ``auto`` takes flash-attn where it is installed, else PyTorch's varlen attention, on CUDA in half precision; SDPA
    per sequence everywhere else. Raises ValueError where a named backend cannot run here.
    """
    half_on_cuda = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    flash = half_on_cuda and importlib.util.find_spec("flash_attn") is not None
    varlen = half_on_cuda and importlib.util.find_spec("torch.nn.attention.varlen") is not None
    match setting:
        case "eager":
            return None
        case "sdpa":
            return "sdpa"
        case "flash":
            if not flash:
                raise ValueError("attention flash needs the flash-attn package, a CUDA device and bfloat16")
            return "flash"
        case "varlen":
            if not varlen:
                raise ValueError("attention varlen needs torch.nn.attention.varlen, a CUDA device and bfloat16")
            return "varlen"
        case "auto":
            return "flash" if flash else "varlen" if varlen else "sdpa"


@contextmanager
def packed(lm: Any) -> Iterator[None]:
    """Within the block the model's layers use packed attention; pass ``kto_layout`` to its forward."""
    config = lm.config.get_text_config()
    before = config._attn_implementation  # noqa: SLF001 - transformers' own name for the setting
    config._attn_implementation = NAME  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = before  # noqa: SLF001


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the interface passes it; packed rows have none
    *,
    kto_layout: PackedLayout,
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001 - dropout stays off: it would be noise in the log-ratios
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The interface transformers calls: query [1, heads, T, D], key and value [1, kv_heads, T, D] -> [1, T, heads, D]."""
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    window = sliding_window or getattr(module, "sliding_window", None) or 0
    if kto_layout.backend == "flash":
        return _flash(query, key, value, kto_layout, scale, window, softcap), None
    if kto_layout.backend == "varlen" and softcap is None:
        return _varlen(query, key, value, kto_layout, scale, window), None
    groups = query.shape[1] // key.shape[1]
    outputs = []
    for length, q, k, v in zip(
        kto_layout.lengths, *(torch.split(x, kto_layout.lengths, dim=2) for x in (query, key, value)), strict=True
    ):
        mask = _window_mask(kto_layout, length, window, query.device) if 0 < window < length else None
        if softcap is not None:
            outputs.append(_explicit(q, k, v, mask, scale, softcap, groups))
        else:
            outputs.append(
                functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=groups > 1
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _window_mask(layout: PackedLayout, length: int, window: int, device: torch.device) -> Tensor:
    if (length, window) not in layout.masks:
        positions = torch.arange(length, device=device)
        distance = positions[:, None] - positions[None, :]
        layout.masks[length, window] = (distance >= 0) & (distance < window)
    return layout.masks[length, window]


def _explicit(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float, groups: int
) -> Tensor:
    """Softmax attention written out, for what SDPA lacks; softmax in float32 as the models' eager code does."""
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if mask is None:
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril_()
    scores = torch.tanh(torch.matmul(q, k.transpose(2, 3)) * scale / softcap) * softcap
    scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return torch.matmul(weights, v)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float, window: int, softcap: float | None
) -> Tensor:
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    longest = max(layout.lengths)
    output: Tensor = flash_attn_varlen_func(
        *(x[0].transpose(0, 1) for x in (query, key, value)),
        layout.offsets,
        layout.offsets,
        longest,
        longest,
        softmax_scale=scale,
        causal=True,
        window_size=(window - 1, 0) if window else (-1, -1),  # a Hugging Face window counts the token itself
        softcap=softcap or 0.0,
    )
    return output[None]


def _varlen(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float, window: int) -> Tensor:
    from torch.nn.attention import varlen

    attend: Callable[..., Any] = varlen.varlen_attn
    known = inspect.signature(attend).parameters  # is_causal first, then scale, window and grouped queries: by version
    options: dict[str, Any] = {}
    if "scale" in known:
        options["scale"] = scale
    else:
        query = query * (scale * query.shape[-1] ** 0.5)
    if "window_size" in known:
        options["window_size"] = (window - 1 if window else -1, 0)
    elif window and window < max(layout.lengths):
        raise ValueError("this version of PyTorch has no sliding window in varlen attention; use attention sdpa")
    else:
        options["is_causal"] = True
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    longest = max(layout.lengths)
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    output: Tensor = attend(q, k, v, layout.offsets, layout.offsets, longest, longest, **options)
    return output[None]


AttentionInterface.register(NAME, packed_attention)
