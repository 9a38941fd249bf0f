"""The KV cache of a pool of rows: it grows in place, drops finished rows and takes in new ones."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64
"""Columns kept free at the right."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that leaves room to grow: appending a token copies that token, not the whole cache."""

    _room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        used = int(self.get_seq_length())
        if used == 0:
            self.keys, self.values = super().update(key_states, value_states, *args, **kwargs)
            return self.keys, self.values
        total = used + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < total:
            self._room = _with_room(self.keys, total), _with_room(self.values, total)
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[..., used:total, :] = new
        self.keys, self.values = (room[..., :total, :] for room in self._room)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._room = None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._room = None

    def take_in(self, other: DynamicLayer, kept_R: torch.Tensor, first: int) -> None:
        """Keep the rows ``kept_R`` from column ``first`` on, put ``other``'s below; all end in the same column."""
        width = max(self.keys.shape[-2] - first, other.keys.shape[-2])
        pairs = ((self.keys, other.keys), (self.values, other.values))
        key, value = (_joined(old[kept_R, :, first:], new, width) for old, new in pairs)
        self._room = key, value
        self.keys, self.values = (room[..., :width, :] for room in self._room)


def make_cache(config: Any) -> DynamicCache:
    """The model's own kind of cache; its plain layers are replaced by roomy ones, windows and states stay."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def takes_in_rows(cache: DynamicCache) -> bool:
    """Whether rows of different age can share the cache; not with sliding windows or recurrent states."""
    return all(isinstance(layer, RoomyLayer) for layer in cache.layers)


def take_in(cache: DynamicCache, other: DynamicCache, kept_R: torch.Tensor, first: int) -> None:
    for layer, new in zip(cache.layers, other.layers, strict=True):
        layer.take_in(new, kept_R, first)


def _with_room(old: torch.Tensor, total: int) -> torch.Tensor:
    room = old.new_empty((*old.shape[:-2], total + max(_ROOM, total // 2), old.shape[-1]))
    room[..., : old.shape[-2], :] = old
    return room


def _joined(upper: torch.Tensor, lower: torch.Tensor, width: int) -> torch.Tensor:
    """Rows one above the other, aligned at the right. What is left of a row is masked, and 0: no NaN may come of it."""
    num = len(upper)
    room = upper.new_zeros((num + len(lower), upper.shape[1], width + _ROOM, upper.shape[-1]))
    room[:num, :, width - upper.shape[-2] : width] = upper
    room[num:, :, width - lower.shape[-2] : width] = lower
    return room
