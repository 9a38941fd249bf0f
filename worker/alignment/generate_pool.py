"""Decoding by a pool of rows: a finished row's place is taken by a waiting prompt (continuous batching).

Every row has its own stream of random numbers, keyed by seed, prompt and sample index, so what is sampled does not depend on
which rows ran beside it (but for rounding: matrices of another height round their sums otherwise).
"""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from worker.alignment.generate_cache import make_cache, take_in, takes_in_rows


class Settings(Protocol):
    """Of ``generate.Sampling``."""

    @property
    def samples_per_prompt(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def rows_per_batch(self) -> int: ...
    @property
    def tokens_per_batch(self) -> int: ...


@dataclass(slots=True)
class _Rows:
    """The running rows, [R] each; finished ones stay until enough of them are gone to be worth a copy of the cache."""

    cache: Any
    mask_RC: torch.Tensor
    """Which columns of the cache a row sees."""
    token_R: torch.Tensor
    """Chosen last, not in the cache yet."""
    count_R: torch.Tensor
    """Tokens chosen so far."""
    place_R: torch.Tensor
    """Row of the result: prompt * K + sample."""
    draw_RN: torch.Tensor
    live_R: torch.Tensor

    def keep(self, kept: torch.Tensor) -> None:
        """All but the cache."""
        self.mask_RC, self.token_R, self.count_R = self.mask_RC[kept], self.token_R[kept], self.count_R[kept]
        self.place_R, self.draw_RN, self.live_R = self.place_R[kept], self.draw_RN[kept], self.live_R[kept]


class Pool:
    """Decodes ``prompts``, K rows each, longest first."""

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], sampling: Settings, ends: set[int], pad: int
    ) -> None:
        self.model, self.prompts, self.sampling = model, prompts, sampling
        self.device = next(model.parameters()).device
        self.pad = pad
        self.ends = torch.tensor(sorted(ends) or [-1], device=self.device)
        self.occurrence = _occurrences(prompts)
        self.waiting = deque(sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index)))
        self.config = _inner(model).config
        self.continuous = takes_in_rows(make_cache(self.config))
        num = len(prompts) * sampling.samples_per_prompt
        self.out_ST = torch.full((num, sampling.max_new_tokens), -1, device=self.device)
        self.left = [sampling.samples_per_prompt] * len(prompts)
        self.done = 0

    def run(self, on_progress: Callable[[int, int], None] | None) -> list[list[int]]:
        """Token ids of every sample, prompt by prompt, the end token included."""
        rows: _Rows | None = None
        while self.waiting or rows is not None:
            before = self.done
            rows = self._refilled(rows)
            self._told(before, on_progress)
            if rows is None:
                continue
            before = self.done
            rows = self._stepped(rows)
            self._told(before, on_progress)
        return [[token for token in row if token >= 0] for row in self.out_ST.tolist()]

    def _told(self, before: int, on_progress: Callable[[int, int], None] | None) -> None:
        if on_progress is not None and self.done > before:
            on_progress(self.done, len(self.prompts))

    def _refilled(self, rows: _Rows | None) -> _Rows | None:
        """With waiting prompts in the free places, once these are a quarter of all; None without a live row."""
        if not self.waiting or (rows is not None and not self.continuous):
            return rows
        repeats, sampling = self.sampling.samples_per_prompt, self.sampling
        width = len(self.prompts[self.waiting[0]])
        if rows is not None:
            width = max(width, rows.mask_RC.shape[1] - sampling.max_new_tokens)
        capacity = min(sampling.rows_per_batch, sampling.tokens_per_batch // (width + sampling.max_new_tokens))
        free = capacity - (int(rows.live_R.sum()) if rows is not None else 0)
        if rows is not None and free < max(repeats, capacity // 4):
            return rows
        chosen = [self.waiting.popleft() for _ in range(min(len(self.waiting), max(1, free // repeats)))]
        new = self._started(chosen)
        return new if rows is None else self._joined(rows, new)

    def _started(self, chosen: list[int]) -> _Rows | None:
        """The prompts run once, their cache repeated K times, the first token chosen."""
        repeats, sampling = self.sampling.samples_per_prompt, self.sampling
        prompts = [self.prompts[index] for index in chosen]
        width = max(map(len, prompts))
        ids_BT = torch.tensor([[self.pad] * (width - len(p)) + list(p) for p in prompts], device=self.device)
        mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        cache = make_cache(self.config)
        # Some recurrent states can be neither repeated nor thinned out: such a model runs every prompt K times over.
        flexible = all(hasattr(layer, "batch_select_indices") for layer in cache.layers)
        if not flexible:
            ids_BT, mask_BT = ids_BT.repeat_interleave(repeats, 0), mask_BT.repeat_interleave(repeats, 0)
        logits_RV = _forward(self.model, ids_BT, mask_BT, (mask_BT.cumsum(1) - 1).clamp(min=0), cache)
        if flexible:
            cache.batch_repeat_interleave(repeats)
            logits_RV, mask_BT = logits_RV.repeat_interleave(repeats, 0), mask_BT.repeat_interleave(repeats, 0)
        places = [index * repeats + sample for index in chosen for sample in range(repeats)]
        streams = [
            stream(sampling, self.prompts[place // repeats], place % repeats, self.occurrence[place // repeats])
            for place in places
        ]
        rows = _Rows(
            cache=cache,
            mask_RC=mask_BT,
            token_R=torch.zeros(len(places), dtype=torch.long, device=self.device),
            count_R=torch.zeros(len(places), dtype=torch.long, device=self.device),
            place_R=torch.tensor(places, device=self.device),
            draw_RN=torch.from_numpy(np.stack(streams)).to(self.device),
            live_R=torch.ones(len(places), dtype=torch.bool, device=self.device),
        )
        self._choose(rows, logits_RV)
        return rows if bool(rows.live_R.any()) else None

    def _joined(self, rows: _Rows, new: _Rows | None) -> _Rows:
        """Live rows above the new ones, columns that none of them sees dropped from the left."""
        if new is None:
            return rows
        kept = rows.live_R.nonzero()[:, 0]
        rows.keep(kept)
        seen_C = rows.mask_RC.any(0).nonzero()
        first = int(seen_C[0, 0]) if len(seen_C) else rows.mask_RC.shape[1]
        take_in(rows.cache, new.cache, kept, first)
        old_RC = rows.mask_RC[:, first:]
        width = max(old_RC.shape[1], new.mask_RC.shape[1])
        return _Rows(
            cache=rows.cache,
            mask_RC=torch.cat([_widened(old_RC, width), _widened(new.mask_RC, width)]),
            token_R=torch.cat([rows.token_R, new.token_R]),
            count_R=torch.cat([rows.count_R, new.count_R]),
            place_R=torch.cat([rows.place_R, new.place_R]),
            draw_RN=torch.cat([rows.draw_RN, new.draw_RN]),
            live_R=torch.cat([rows.live_R, new.live_R]),
        )

    def _stepped(self, rows: _Rows) -> _Rows | None:
        """One more token for every row; None once all are finished."""
        rows.mask_RC = torch.cat([rows.mask_RC, torch.ones_like(rows.mask_RC[:, :1])], 1)
        positions_R1 = rows.mask_RC.sum(1, keepdim=True) - 1
        self._choose(rows, _forward(self.model, rows.token_R[:, None], rows.mask_RC, positions_R1, rows.cache))
        num_live = int(rows.live_R.sum())
        if num_live == 0:
            return None
        # Dropping rows copies the cache: worth it once a quarter has finished, and done anyway when others come in.
        flexible = all(hasattr(layer, "batch_select_indices") for layer in rows.cache.layers)
        if flexible and num_live <= 0.75 * len(rows.live_R) and not (self.waiting and self.continuous):
            kept = rows.live_R.nonzero()[:, 0]
            rows.cache.batch_select_indices(kept)
            rows.keep(kept)
        return rows

    def _choose(self, rows: _Rows, logits_RV: torch.Tensor) -> None:
        """The next token of every row; live rows write theirs down and finish at an end token or at the limit."""
        limit = self.sampling.max_new_tokens
        at_R = rows.count_R.clamp(max=limit - 1)
        rows.token_R = choose(logits_RV, self.sampling, rows.draw_RN.gather(1, at_R[:, None]))
        live = rows.live_R.nonzero()[:, 0]
        self.out_ST[rows.place_R[live], at_R[live]] = rows.token_R[live]
        rows.count_R = rows.count_R + 1
        finished_R = rows.live_R & (torch.isin(rows.token_R, self.ends) | (rows.count_R >= limit))
        rows.live_R = rows.live_R & ~finished_R
        for place in rows.place_R[finished_R].tolist():
            index = place // self.sampling.samples_per_prompt
            self.left[index] -= 1
            self.done += self.left[index] == 0


def stream(sampling: Settings, prompt: Sequence[int], sample: int, occurrence: int) -> np.ndarray:
    """The row's random numbers, one a token, [max_new_tokens] in [0, 1); the first ones do not depend on how many are asked."""
    told = repr((sampling.seed, list(prompt), sample, occurrence)).encode()
    key = int.from_bytes(hashlib.sha256(told).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random(sampling.max_new_tokens, dtype=np.float32)


def choose(logits_BV: torch.Tensor, sampling: Settings, draw_B1: torch.Tensor) -> torch.Tensor:
    """One token a row, [B], by inversion: a single random number a row."""
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    probs_BV = (logits_BV / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        sorted_BV, index_BV = probs_BV.sort(-1, descending=True)
        sorted_BV[sorted_BV.cumsum(-1) - sorted_BV >= sampling.top_p] = 0  # the token that crosses top_p stays
        probs_BV = torch.zeros_like(probs_BV).scatter_(-1, index_BV, sorted_BV)
    cumulative_BV = probs_BV.cumsum(-1)
    wanted_B1 = draw_B1 * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, wanted_B1, right=True)[:, 0].clamp(max=probs_BV.shape[1] - 1)


def _occurrences(prompts: Sequence[Sequence[int]]) -> list[int]:
    """How many equal prompts come before each: a prompt asked twice is answered twice."""
    seen: Counter[tuple[int, ...]] = Counter()
    found = []
    for prompt in prompts:
        found.append(seen[tuple(prompt)])
        seen[tuple(prompt)] += 1
    return found


def _widened(mask_RC: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(mask_RC, (width - mask_RC.shape[1], 0))


def _forward(
    model: Any, ids_BT: torch.Tensor, mask_BT: torch.Tensor, positions_BT: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Next-token logits, float32 [B, V]."""
    extra = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(_inner(model).forward).parameters else {}
    output = model(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        position_ids=positions_BT,
        past_key_values=cache,
        use_cache=True,
        **extra,
    )
    logits: torch.Tensor = output.logits[:, -1]
    return logits.float()


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
