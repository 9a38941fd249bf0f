"""Attention over packed strands: one row of tokens [1, T] holds many sequences, none sees another, nothing is padded.

Registered with transformers under one name; a model runs it only inside ``packed(...)`` and keeps its own attention for
everything else (generation, the padded path). The mask library makes no mask for a name it does not know, so no [T, T]
tensor exists. A layer that needs what a backend cannot do goes another way: chunks in a kernel without them by SDPA, a
soft-cap in SDPA and sinks written out. Models that mix tokens outside attention (convolutions, linear attention) cannot be
packed, and the start-of-run probe finds them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from worker.alignment import varlen
from worker.alignment.config import Attention
from worker.alignment.dataset import IntArray
from worker.alignment.flex import Blocks, flex
from worker.alignment.memory import recomputing
from worker.alignment.packing import Pack, Strand

Backend = Literal["flash", "varlen", "flex", "sdpa"]
NAME = "kto_packed"
WORDS: dict[Backend, str] = {
    "flash": "flash-attn, packed",
    "varlen": "PyTorch varlen attention, packed",
    "flex": "FlexAttention, packed",
    "sdpa": "SDPA per sequence, packed",
}


@dataclass(slots=True, eq=False)
class Memory:
    """What a forward leaves for mismatched pairs: its layers' keys and values, and its last hidden states."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Layer -> keys (after the rotary embedding) and values, each [1, kv_heads, T, D], detached."""
    hidden: Tensor | None = None
    """[T, H], detached."""
    places: IntArray | None = None
    """[T] a token's row in ``hidden``, where that holds a tail only."""


@dataclass(slots=True, eq=False)
class Layout:
    """The pack as the attention function needs it, and where keys come from and go to."""

    pack: Pack
    backend: Backend
    device: torch.device
    memory: Memory | None = None
    """Where the strands' contexts are."""
    capture: Memory | None = None
    """Where this forward's keys and values are kept."""
    masks: dict[tuple[int, int, int, int], Tensor] = field(default_factory=dict)
    """By (tokens, context, window, chunk), shared by the layers of one forward."""
    variable: varlen.Lengths | None = None
    blocks: Blocks | None = None
    pieces: tuple[list[int], list[list[int]]] | None = None
    tail: Layout | None = None
    """What the last layer computes of the row (see ``tail.py``); None: all of it."""
    tail_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """[n] its rows."""


def choose_backend(
    setting: Attention, device: torch.device, dtype: torch.dtype, *, gradients: bool = True
) -> Backend | None:
    """The packed backend for a setting; None means the padded path with the model's own attention.

    ``auto`` takes flash-attn where it is installed, else PyTorch's varlen attention, on CUDA in half precision; SDPA
    per sequence everywhere else. Raises ValueError where a named backend cannot run here, or give ``gradients``.
    """
    half_on_cuda = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    flash = half_on_cuda and importlib.util.find_spec("flash_attn") is not None
    has_varlen = half_on_cuda and importlib.util.find_spec("torch.nn.attention.varlen") is not None
    match setting:
        case "eager":
            return None
        case "sdpa":
            return "sdpa"
        case "flash":
            if not flash:
                raise ValueError("attention: flash needs the flash-attn package, a CUDA device and bfloat16; use auto")
            return "flash"
        case "varlen":
            if not has_varlen:
                raise ValueError(
                    "attention: varlen needs torch.nn.attention.varlen, a CUDA device and bfloat16; use auto"
                )
            return "varlen"
        case "flex":
            if gradients and device.type != "cuda":
                raise ValueError("attention: flex needs a CUDA device to train; use auto")
            return "flex"
        case _:
            return "flash" if flash else "varlen" if has_varlen else "sdpa"


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
    kto_layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001 - dropout stays off: it would be noise in the log-ratios
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The interface transformers calls: query [1, heads, T, D], key and value [1, kv_heads, T, D] -> [1, T, heads, D].

    ``s_aux`` are attention sinks (one logit per head that takes weight and gives nothing).
    """
    layout = kto_layout
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    window, chunk = _reach(module, sliding_window, layout.pack.longest)
    if getattr(module, "attn_temperature_tuning", False) and not getattr(module, "use_rope", True):
        raise ValueError("it scales its queries by their place in the row")  # Llama 4's long-context layers
    if layout.capture is not None and not recomputing():
        layout.capture.layers[id(module)] = key.detach(), value.detach()
    memory = layout.memory.layers[id(module)] if layout.memory is not None else None
    if s_aux is None and _one_call(layout.backend, chunk, softcap):
        if memory is not None:
            key, value = torch.cat([memory[0], key], dim=2), torch.cat([memory[1], value], dim=2)
        return _in_one_call(layout, query, key, value, scale, (window, chunk), softcap), None
    keys, values = _keys_of(layout, key, memory and memory[0]), _keys_of(layout, value, memory and memory[1])
    queries = torch.split(query, [strand.length for strand in layout.pack.strands], dim=2)
    outputs = []
    for strand, q, k, v in zip(layout.pack.strands, queries, keys, values, strict=True):
        mask = _mask(layout, strand, window, chunk)
        if softcap is not None or s_aux is not None:
            outputs.append(_explicit(q, k, v, mask, scale, softcap, s_aux))
        else:
            groups = q.shape[1] != k.shape[1]
            outputs.append(
                functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=groups
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _reach(module: torch.nn.Module, sliding_window: int | None, longest: int) -> tuple[int, int]:
    """How far a layer sees, (window, chunk) in tokens; 0: there is none, or no sequence is longer.

    Masks of chunks, and some of windows, are made outside the layer, from the kind that the config gives each.
    """
    config = getattr(module, "config", None)
    kinds, index = getattr(config, "layer_types", None) or (), getattr(module, "layer_idx", None)
    kind = kinds[index] if index is not None and index < len(kinds) else None
    window, chunk = sliding_window or 0, 0
    if kind == "chunked_attention":
        window, chunk = 0, int(getattr(config, "attention_chunk_size", None) or 0)
    elif not window and kind != "full_attention":
        window = getattr(module, "sliding_window", None) or 0
        if not window and kind == "sliding_attention":
            window = int(getattr(config, "sliding_window", None) or 0)
    return (window if window < longest else 0), (chunk if chunk < longest else 0)


def _one_call(backend: Backend, chunk: int, softcap: float | None) -> bool:
    """Whether the backend's kernel does all strands of such a layer."""
    match backend:
        case "flex":
            return True
        case "flash":
            return not chunk
        case "varlen":
            return not chunk and softcap is None
        case "sdpa":
            return False


def _in_one_call(
    layout: Layout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    reach: tuple[int, int],
    softcap: float | None,
) -> Tensor:
    """``key`` and ``value`` begin with the memory's: [1, kv_heads, memory + T, D] -> [1, T, heads, D]."""
    memory_tokens = key.shape[2] - query.shape[2] if layout.memory is not None else 0
    if layout.backend == "flex":
        if layout.blocks is None:
            layout.blocks = Blocks(layout.pack, layout.device, memory_tokens)
        return flex(query, key, value, layout.blocks.mask(*reach), scale, softcap)
    if layout.variable is None:
        layout.variable = varlen.lengths_of(layout.pack, layout.device, memory_tokens)
    attend = varlen.flash if layout.backend == "flash" else varlen.torch_varlen
    return attend(query, key, value, layout.variable, scale, reach[0], softcap)


def _keys_of(layout: Layout, own: Tensor, memory: Tensor | None) -> list[Tensor]:
    """For each strand the keys (or values) of its context and its own, [1, kv_heads, context + length, D].

    The row is split once into disjoint pieces, which contexts put together: the backward of a split writes each gradient
    once, where a slice per strand would fill the whole row with zeros for each.
    """
    strands = layout.pack.strands
    if memory is not None:
        parts = torch.split(own, [strand.length for strand in strands], dim=2)
        return [
            torch.cat([*(memory[:, :, start:stop] for start, stop in strand.context), part], dim=2)
            if strand.context
            else part
            for strand, part in zip(strands, parts, strict=True)
        ]
    if layout.pieces is None:
        layout.pieces = _pieces(layout.pack, own.shape[2])
    sizes, members = layout.pieces
    split = torch.split(own, sizes, dim=2)
    return [torch.cat([split[i] for i in each], dim=2) if len(each) > 1 else split[each[0]] for each in members]


def _pieces(pack: Pack, num_keys: int) -> tuple[list[int], list[list[int]]]:
    """Sizes of the disjoint pieces of the row, and for each strand the pieces that its keys are made of."""
    borders = {0, num_keys}
    for strand in pack.strands:
        borders.update((strand.keys_start, strand.keys_start + strand.length))
        borders.update(border for pair in strand.context for border in pair)
    edges = sorted(borders)
    place = {edge: index for index, edge in enumerate(edges)}
    sizes = [stop - start for start, stop in pairwise(edges)]
    members = []
    for strand in pack.strands:
        spans = [*strand.context, (strand.keys_start, strand.keys_start + strand.length)]
        members.append([index for start, stop in spans for index in range(place[start], place[stop])])
    return sizes, members


def _mask(layout: Layout, strand: Strand, window: int, chunk: int) -> Tensor | None:
    """Which keys each token sees, [length, context + length]; None where plain causal attention is that."""
    context = strand.num_context
    total = context + strand.length
    window, chunk = (window if window < total else 0), (chunk if chunk < total else 0)
    if not context and not window and not chunk:
        return None
    key = (strand.length, context, window, chunk)
    if key not in layout.masks:
        queries = torch.arange(context, total, device=layout.device)[:, None]
        keys = torch.arange(total, device=layout.device)[None, :]
        mask = keys <= queries
        if window:
            mask &= queries - keys < window
        if chunk:
            mask &= keys >= queries // chunk * chunk
        layout.masks[key] = mask
    return layout.masks[key]


def _explicit(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Softmax attention written out, for what SDPA lacks; softmax in float32 as the models' eager code does."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if mask is None:
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril_()
    scores = torch.matmul(q, k.transpose(2, 3)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        column = sinks.to(scores.dtype)[None, :, None, None].expand(1, -1, scores.shape[2], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return torch.matmul(weights[..., : k.shape[2]], v)


AttentionInterface.register(NAME, packed_attention)
