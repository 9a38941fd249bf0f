"""Summed log-probabilities of completions, three exact ways: packed, padded, and through the model's whole forward.

The head only ever sees the positions before completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from worker.alignment.attention import Backend, Layout, Memory, packed
from worker.alignment.dataset import IntArray, Pair
from worker.alignment.logps import Head, frozen_head_logps, sum_by_row
from worker.alignment.packing import Pack, inputs_of, tail_of

ScoringPath = Literal["packed", "padded", "dense"]


def packed_logps(
    lm: Any,
    head: Head,
    pack: Pack,
    backend: Backend,
    device: torch.device,
    *,
    memory: Memory | None = None,
    capture: Memory | None = None,
    tail: bool = False,
) -> Tensor:
    """Summed log p(completion | prompt), [B] in float32, from one padding-free row of tokens.

    ``capture`` receives keys, values and hidden states; ``memory`` are those of the forward that ``pack``'s contexts
    lie in (see ``pack_continuations``). ``tail``: the last layer leaves out what the head does not read.
    """
    layout = Layout(pack, backend, device, memory=memory, capture=capture)
    places = None
    if tail and memory is None:
        found = tail_of(pack)
        places = np.zeros(pack.num_tokens, dtype=np.int64)
        places[found.rows] = np.arange(len(found.rows))
        layout.tail = Layout(found.pack, backend, device, capture=capture)
        layout.tail_rows = to_device(found.rows, device)
    own_TH = None
    if pack.num_tokens:
        with packed(lm):
            output = body_of(lm)(
                input_ids=to_device(pack.token_ids, device)[None],
                position_ids=to_device(pack.position_ids, device)[None],
                use_cache=False,
                kto_layout=layout,
            )
        own_TH = output.last_hidden_state[0]
    if capture is not None and own_TH is not None:
        capture.hidden, capture.places = own_TH.detach(), places
    hidden_TH = _joined(memory, own_TH)
    rows = pack.score_rows if places is None else places[pack.score_rows]
    hidden_NH = hidden_TH.index_select(0, to_device(_shifted(rows, memory), device))
    token_logps_N = frozen_head_logps(hidden_NH, to_device(pack.targets, device), head)
    return sum_by_row(token_logps_N, to_device(pack.lengths, device))


def _joined(memory: Memory | None, own_TH: Tensor | None) -> Tensor:
    parts = [part for part in (memory.hidden if memory is not None else None, own_TH) if part is not None]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _shifted(rows: IntArray, memory: Memory | None) -> IntArray:
    """Rows of a memory's tokens and, behind them, of the pack's own, where the memory holds fewer hidden states."""
    if memory is None or memory.places is None or memory.hidden is None:
        return rows
    tokens, kept = len(memory.places), memory.hidden.shape[0]
    inside = rows < tokens
    return np.where(inside, memory.places[np.where(inside, rows, 0)], rows - tokens + kept)


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
    arguments = {"input_ids": to_device(ids, device), "attention_mask": to_device(mask, device), "use_cache": False}
    picks_N = to_device(np.concatenate(picks), device)
    targets_N = to_device(np.concatenate([pair.completion_ids for pair in pairs]), device)
    lengths_B = to_device(np.asarray([len(pair.completion_ids) for pair in pairs]), device)
    if head is not None:
        hidden_BTH = body_of(lm)(**arguments).last_hidden_state
        hidden_NH = hidden_BTH.flatten(0, 1).index_select(0, picks_N)
        return sum_by_row(frozen_head_logps(hidden_NH, targets_N, head), lengths_B)
    logits_NV = lm(**arguments).logits.flatten(0, 1).index_select(0, picks_N)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    return sum_by_row(logits_NV.log_softmax(-1).gather(1, targets_N[:, None]).squeeze(1), lengths_B)


def body_of(lm: Any) -> Any:
    """The model under the head; transformers' own name for it leads nowhere in Llama 4's text model."""
    return lm.base_model if lm.base_model is not lm else lm.model


def tolerance(dtype: torch.dtype, logps_B: Tensor, num_tokens_B: Tensor) -> Tensor:
    """How far two exact computations of a summed log-prob may differ by rounding alone, [B] in nats.

    float32 packs of real models differ by about 1e-7 relative (1e-5 at -118 nats); bfloat16 by about 0.02 nats per token
    at random. A model that leaks across packed rows, or another head, is off by nats.
    """
    if dtype in (torch.bfloat16, torch.float16):
        return 0.1 * num_tokens_B.to(logps_B.dtype).sqrt() + 0.005 * logps_B.abs()
    return 1e-4 + 1e-5 * logps_B.abs()


def to_device(array: np.ndarray[Any, Any] | Sequence[Any], device: torch.device) -> Tensor:
    """A copy on the device that the host does not wait for."""
    return torch.from_numpy(np.asarray(array)).to(device, non_blocking=True)
