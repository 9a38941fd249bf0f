"""Packed attention by FlexAttention: one kernel call under a mask that is a formula, and a table of the blocks it leaves.

The table is made on the host from the strands, never from a [T, K] mask; the kernel skips the blocks that are not in it and
asks the formula only where a block is partly seen. PyTorch has no backward of it on a CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from worker.alignment.dataset import IntArray
from worker.alignment.packing import Pack

BLOCK = 128
Spans = list[tuple[int, int, int]]
"""(start, stop) in the keys and the first token's position, in the order of positions."""


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Which keys each strand sees: the rows of a memory, then the pack's own."""

    spans: list[Spans]
    """For each strand its context and itself."""
    pieces: IntArray
    """[K] number of the disjoint piece that a key lies in; a strand sees all of a piece or nothing."""
    positions: IntArray
    """[K] in the sequence, the same for every strand that sees the key."""
    seen: np.ndarray[Any, np.dtype[np.bool_]]
    """[S, P]"""


def keys_of(pack: Pack, memory_tokens: int) -> Keys:
    spans: list[Spans] = []
    for strand in pack.strands:
        own = (strand.start + memory_tokens, strand.start + strand.length + memory_tokens)
        spans.append([])
        at = 0
        for start, stop in (*strand.context, own):
            spans[-1].append((start, stop, at))
            at += stop - start
    total = memory_tokens + pack.num_tokens
    edges = sorted({0, total}.union(*({start, stop} for each in spans for start, stop, _ in each)))
    place = {edge: index for index, edge in enumerate(edges)}
    seen = np.zeros((len(spans), len(edges) - 1), dtype=np.bool_)
    positions = np.zeros(total, dtype=np.int64)
    for number, each in enumerate(spans):
        for start, stop, at in each:
            seen[number, place[start] : place[stop]] = True
            positions[start:stop] = np.arange(at, at + stop - start)
    sizes = [stop - start for start, stop in pairwise(edges)]
    return Keys(spans, np.repeat(np.arange(len(sizes)), sizes), positions, seen)


@dataclass(slots=True, eq=False)
class Blocks:
    """The block masks of one forward, made once for each kind of layer."""

    pack: Pack
    device: torch.device
    memory_tokens: int = 0
    masks: dict[tuple[int, int], BlockMask] = field(default_factory=dict)
    keys: Keys | None = None
    tensors: list[Tensor] | None = None

    def mask(self, window: int, chunk: int) -> BlockMask:
        """``window`` and ``chunk`` in tokens; 0: none."""
        if (window, chunk) not in self.masks:
            self.masks[window, chunk] = self._make(window, chunk)
        return self.masks[window, chunk]

    def _make(self, window: int, chunk: int) -> BlockMask:
        if self.keys is None or self.tensors is None:
            self.keys = keys_of(self.pack, self.memory_tokens)
            strands = np.repeat(np.arange(len(self.pack.strands)), [strand.length for strand in self.pack.strands])
            arrays = (strands, self.pack.position_ids, self.keys.pieces, self.keys.positions, self.keys.seen)
            self.tensors = [torch.from_numpy(array).to(self.device, non_blocking=True) for array in arrays]
        touched, full = block_table(self.pack, self.keys, window, chunk)
        return BlockMask.from_kv_blocks(
            *self._ordered(touched & ~full),
            *self._ordered(full),
            BLOCK_SIZE=BLOCK,
            mask_mod=_formula(self.tensors, window, chunk),
            seq_lengths=(self.pack.num_tokens, len(self.keys.pieces)),
        )

    def _ordered(self, table: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[Tensor, Tensor]:
        """[1, 1, query blocks] counts and [1, 1, query blocks, key blocks] indices, the ones that count first."""
        counts = table.sum(1).astype(np.int32)[None, None]
        indices = np.argsort(~table, axis=1, kind="stable").astype(np.int32)[None, None]
        return tuple(torch.from_numpy(x).to(self.device, non_blocking=True) for x in (counts, indices))  # type: ignore[return-value]


def block_table(
    pack: Pack, keys: Keys, window: int, chunk: int
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """(touched, full), each [query blocks, key blocks]: where some query sees some key, and where all see all."""
    num_keys = len(keys.pieces)
    touched = np.zeros((-(-pack.num_tokens // BLOCK), -(-num_keys // BLOCK)), dtype=np.bool_)
    full = np.zeros_like(touched)
    for strand, spans in zip(pack.strands, keys.spans, strict=True):
        end = strand.start + strand.length
        for row in range(strand.start // BLOCK, (end - 1) // BLOCK + 1):
            first, last = max(strand.start, row * BLOCK), min(end, (row + 1) * BLOCK) - 1
            low, high = (strand.num_context + place - strand.start for place in (first, last))
            reach = max(low - window + 1 if window else 0, low // chunk * chunk if chunk else 0)
            whole = last - first + 1 == BLOCK
            for start, stop, at in spans:
                begin, finish = max(start, start + reach - at), min(stop, start + high + 1 - at)
                if begin >= finish:
                    continue
                touched[row, begin // BLOCK : (finish - 1) // BLOCK + 1] = True
                if not whole:
                    continue
                inside = np.arange(-(-start // BLOCK), stop // BLOCK)  # blocks of keys that lie in the span whole
                earliest = at + inside * BLOCK - start
                sees_all = earliest + BLOCK - 1 <= low
                if window:
                    sees_all &= high - earliest < window
                if chunk:
                    sees_all &= earliest // chunk == high // chunk
                full[row, inside[sees_all]] = True
    return touched, full


def _formula(tensors: list[Tensor], window: int, chunk: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    strands, positions, pieces, key_positions, seen = tensors

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        place, other = positions[query], key_positions[key]
        visible = seen[strands[query], pieces[key]] & (other <= place)
        if window:
            visible = visible & (place - other < window)
        if chunk:
            visible = visible & (torch.div(place, chunk, rounding_mode="floor") * chunk <= other)
        return visible

    return sees


def flex(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float, softcap: float | None) -> Tensor:
    """[1, heads, T, D] and [1, kv_heads, K, D] -> [1, T, heads, D]."""
    options: dict[str, Any] = {
        "score_mod": None if softcap is None else _capped(softcap),
        "block_mask": mask,
        "scale": scale,
        "enable_gqa": query.shape[1] != key.shape[1],
    }
    output: Tensor
    if query.is_cuda:
        output = _compiled()(query, key, value, **options)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
            output = flex_attention(query, key, value, **options)
    return output.transpose(1, 2)


def _capped(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, *_places: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return capped


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    """Lengths are symbols in the graph: another pack compiles nothing."""
    return torch.compile(flex_attention, dynamic=True)
