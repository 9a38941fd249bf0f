"""Packed attention in one kernel call: flash-attn, or PyTorch's own varlen attention."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from worker.alignment.packing import Pack


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Where each strand's queries and keys begin and end, as the kernels ask."""

    queries: Tensor
    """[S + 1] int32 on the device: cumulative."""
    keys: Tensor
    """[S + 1] int32, contexts included."""
    longest_query: int
    longest_key: int
    key_rows: Tensor | None
    """[sum of keys] rows of memory and row together, strand by strand; None where keys lie as queries do."""


def lengths_of(pack: Pack, device: torch.device, memory_tokens: int) -> Lengths:
    """``memory_tokens``: rows of the memory, which come before the pack's own."""
    queries = [strand.length for strand in pack.strands]
    keys = [strand.length + strand.num_context for strand in pack.strands]
    rows = None
    if any(strand.context or strand.own_keys >= 0 for strand in pack.strands):
        spans = []
        for strand in pack.strands:
            spans += [np.arange(start, stop) for start, stop in strand.context]
            spans.append(np.arange(strand.keys_start, strand.keys_start + strand.length) + memory_tokens)
        rows = torch.from_numpy(np.concatenate(spans)).to(device, non_blocking=True)

    def cumulative(lengths: list[int]) -> Tensor:
        total = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return torch.from_numpy(total).to(device, non_blocking=True)

    return Lengths(cumulative(queries), cumulative(keys), max(queries), max(keys), rows)


def flash(
    query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, scale: float, window: int, softcap: float | None
) -> Tensor:
    """[1, heads, T, D] and [1, kv_heads, K, D] -> [1, T, heads, D]. A causal mask is aligned to the last key since 2.1."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    q, k, v = _rows(query, key, value, lengths)
    output: Tensor = flash_attn_varlen_func(
        q,
        k,
        v,
        lengths.queries,
        lengths.keys,
        lengths.longest_query,
        lengths.longest_key,
        softmax_scale=scale,
        causal=True,
        window_size=(window - 1, 0) if window else (-1, -1),  # a Hugging Face window counts the token itself
        softcap=softcap or 0.0,
    )
    return output[None]


def torch_varlen(
    query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, scale: float, window: int, softcap: float | None
) -> Tensor:
    """The same by ``torch.nn.attention.varlen``; its signature differs between versions."""
    from torch.nn.attention import varlen

    if softcap is not None:
        raise ValueError("varlen attention has no soft-cap")
    attend: Callable[..., Any] = varlen.varlen_attn
    known = inspect.signature(attend).parameters  # is_causal first, then scale, window and grouped queries: by version
    options: dict[str, Any] = {}
    if "scale" in known:
        options["scale"] = scale
    else:
        query = query * (scale * query.shape[-1] ** 0.5)
    if "window_size" in known:
        options["window_size"] = (window - 1 if window else -1, 0)
    elif window and window < lengths.longest_key:
        raise ValueError("this version of PyTorch has no sliding window in varlen attention; use attention sdpa")
    else:
        options["is_causal"] = True
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    q, k, v = (x.contiguous() for x in _rows(query, key, value, lengths))
    output: Tensor = attend(
        q, k, v, lengths.queries, lengths.keys, lengths.longest_query, lengths.longest_key, **options
    )
    return output[None]


@lru_cache(maxsize=4)
def aligned_to_last_key(backend: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel's causal mask lets the last query see the last key when there are more keys than queries.

    Contexts need that. It is computed, not looked up: versions differ.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 64, generator=generator).to(device, dtype) for n in (16, 48, 48))
    few, many = (torch.tensor([0, n], dtype=torch.int32, device=device) for n in (16, 48))
    attend = flash if backend == "flash" else torch_varlen
    try:
        found = attend(q, k, v, Lengths(few, many, 16, 48, None), 0.125, 0, None)
    except RuntimeError:  # a kernel that does not run on this device: the start-of-run probe says so
        return False
    distance = torch.arange(32, 48, device=device)[:, None] - torch.arange(48, device=device)[None, :]
    right = functional.scaled_dot_product_attention(q, k, v, attn_mask=distance >= 0, scale=0.125)
    return bool((found - right.transpose(1, 2)).abs().max() < 0.05)


def _rows(query: Tensor, key: Tensor, value: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor, Tensor]:
    """[1, heads, T, D] -> [T, heads, D], keys and values gathered for each strand."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if lengths.key_rows is not None:
        k, v = k.index_select(0, lengths.key_rows), v.index_select(0, lengths.key_rows)
    return q, k, v
