"""Summed log-probabilities of completions, three exact ways: packed, padded, and through the model's whole forward.

A sequence enters the model as prompt + completion without its last token: the hidden state at each position scores the
token after it. The head only ever sees the positions before completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from worker.alignment.attention import Backend, PackedLayout, packed
from worker.alignment.dataset import Pair
from worker.alignment.logps import Head, frozen_head_logps, sum_by_row

ScoringPath = Literal["packed", "padded", "dense"]


def inputs_of(pair: Pair) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Token ids fed to the model: everything but the last completion token."""
    return np.concatenate([pair.prompt_ids, pair.completion_ids[:-1]])


def packed_logps(lm: Any, head: Head, pairs: Sequence[Pair], backend: Backend, device: torch.device) -> Tensor:
    """Summed log p(completion | prompt), [B] in float32, from one padding-free row of tokens."""
    lengths = [len(pair.prompt_ids) + len(pair.completion_ids) - 1 for pair in pairs]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    picks = [
        np.arange(start + len(pair.prompt_ids) - 1, start + length)
        for pair, start, length in zip(pairs, starts, lengths, strict=False)
    ]
    positions = np.concatenate([np.arange(length) for length in lengths])
    layout = PackedLayout(lengths, backend, _to(starts.astype(np.int32), device))
    with packed(lm):
        output = lm.base_model(
            input_ids=_to(np.concatenate([inputs_of(pair) for pair in pairs]), device)[None],
            position_ids=_to(positions, device)[None],
            use_cache=False,
            kto_layout=layout,
        )
    hidden_NH = output.last_hidden_state[0].index_select(0, _to(np.concatenate(picks), device))
    return _sum(frozen_head_logps(hidden_NH, _targets(pairs, device), head), pairs, device)


def padded_logps(lm: Any, head: Head | None, pairs: Sequence[Pair], device: torch.device) -> Tensor:
    """The same from right-padded rows with the model's own attention; ``head`` None: the model's own logits too."""
    width = max(len(pair.prompt_ids) + len(pair.completion_ids) - 1 for pair in pairs)
    ids = np.zeros((len(pairs), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    picks = []
    for row, pair in enumerate(pairs):
        tokens = inputs_of(pair)
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        picks.append(np.arange(row * width + len(pair.prompt_ids) - 1, row * width + len(tokens)))
    arguments = {"input_ids": _to(ids, device), "attention_mask": _to(mask, device), "use_cache": False}
    picks_N, targets_N = _to(np.concatenate(picks), device), _targets(pairs, device)
    if head is not None:
        hidden_BTH = lm.base_model(**arguments).last_hidden_state
        return _sum(
            frozen_head_logps(hidden_BTH.flatten(0, 1).index_select(0, picks_N), targets_N, head), pairs, device
        )
    logits_NV = lm(**arguments).logits.flatten(0, 1).index_select(0, picks_N)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    token_logps_N = logits_NV.log_softmax(-1).gather(1, targets_N[:, None]).squeeze(1)
    return _sum(token_logps_N, pairs, device)


def tolerance(dtype: torch.dtype, logps_B: Tensor, num_tokens_B: Tensor) -> Tensor:
    """How far two exact computations of a summed log-prob may differ by rounding alone, [B] in nats.

    float32 packs of real models differ by about 1e-7 relative (1e-5 at -118 nats); bfloat16 by about 0.02 nats per token
    at random. A model that leaks across packed rows, or another head, is off by nats.
    """
    if dtype in (torch.bfloat16, torch.float16):
        return 0.1 * num_tokens_B.to(logps_B.dtype).sqrt() + 0.005 * logps_B.abs()
    return 1e-4 + 1e-5 * logps_B.abs()


def _targets(pairs: Sequence[Pair], device: torch.device) -> Tensor:
    return _to(np.concatenate([pair.completion_ids for pair in pairs]), device)


def _sum(token_logps_N: Tensor, pairs: Sequence[Pair], device: torch.device) -> Tensor:
    return sum_by_row(token_logps_N, _to(np.asarray([len(pair.completion_ids) for pair in pairs]), device))


def _to(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)
