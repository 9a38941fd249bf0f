"""The opponent of ``bench.training``: a KTO step as one writes it first, with transformers' own forward.

Rows as they come, eight at a time, padded on the right; logits of every position; the reference runs in every step, for the
rows and for the mismatched pairs. Only z0 is pooled over the step, as in our trainer, so that both have the same loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from worker.alignment.dataset import Pair

ROWS_PER_PASS = 8
"""The default of transformers' and TRL's trainers."""


def plain_step(
    model: Any, pairs: Sequence[Pair], labels: Sequence[bool], kl_pairs: Sequence[Pair], *, beta: float
) -> float:
    """Leave the gradient of the mean loss in ``model``'s adapters; returns the loss."""
    with torch.no_grad():
        kl = torch.cat([_logps(model, part) - _reference(model, part) for part in _parts(kl_pairs)])
    z0 = kl.mean().clamp(min=0)
    loss = 0.0
    signs = torch.tensor(labels, device=z0.device).double() * 2 - 1
    for start, part in enumerate(_parts(pairs)):
        sign_B = signs[start * ROWS_PER_PASS :][: len(part)]
        ratio_B = _logps(model, part) - _reference(model, part)
        part_loss = (1 - torch.sigmoid(sign_B * beta * (ratio_B - z0))).sum() / len(pairs)
        part_loss.backward()  # type: ignore[no-untyped-call]
        loss += float(part_loss.detach())
    return loss


def _parts(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    return (pairs[start : start + ROWS_PER_PASS] for start in range(0, len(pairs), ROWS_PER_PASS))


def _reference(model: Any, pairs: Sequence[Pair]) -> Tensor:
    with torch.no_grad():
        return _logps(model, pairs, adapters=model.disable_adapter())


def _logps(model: Any, pairs: Sequence[Pair], *, adapters: AbstractContextManager[Any] | None = None) -> Tensor:
    """Summed log p(completion | prompt), [B] in float64 from float32 token log-probs."""
    device = next(model.parameters()).device
    rows = [torch.from_numpy(part) for pair in pairs for part in pair]
    both = [torch.cat(rows[index : index + 2]) for index in range(0, len(rows), 2)]
    ids_BT = pad_sequence(both, batch_first=True).to(device)
    mask_BT = pad_sequence([torch.ones_like(ids) for ids in both], batch_first=True).to(device)
    wanted = [torch.cat([torch.zeros_like(p), torch.ones_like(c)]) for p, c in zip(rows[::2], rows[1::2], strict=True)]
    wanted_BT = pad_sequence(wanted, batch_first=True).to(device)[:, 1:]
    with adapters or nullcontext():
        logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits[:, :-1].float()
    token_BT = logits_BTV.log_softmax(-1).gather(2, ids_BT[:, 1:, None]).squeeze(2)
    logps_B: Tensor = (token_BT * wanted_BT).double().sum(1)
    return logps_B
