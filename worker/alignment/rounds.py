"""Who computes what in one optimizer step: cuts of its rows, and what the processes do at the same time.

A pure function of the batch: every process knows all shares, so that nothing has to be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from worker.alignment.dataset import IntArray, Pair
from worker.alignment.policy import Policy
from worker.alignment.scoring import to_device
from worker.alignment.shares import deal, share_units

if TYPE_CHECKING:
    from worker.alignment.step import StepBatch, StepSettings

MIN_KL_ROWS = 16
"""Rows of a microbatch whose z0 is its own (``kl_scope=microbatch``): fewer make it noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """The part of a batch that goes through the model at once."""

    rows: Tensor
    """[b] places in the batch, on the device."""
    pairs: list[Pair]
    kl_pairs: list[Pair]
    kl_rows: list[int]
    """Places in ``pairs``."""
    kl_places: Tensor
    """[m] places among the batch's mismatched pairs, on the device."""


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """What the processes do at the same time: one cut each, or none where a process has no more."""

    cut: Cut | None
    """This process's."""
    kl_passes: int
    """Forward passes for mismatched pairs beside it, of the process that needs most."""
    own_kl_passes: int


def rounds_of(policy: Policy, batch: StepBatch, settings: StepSettings) -> list[Round]:
    """The step of ``policy.world``: one round where no process needs more than one cut."""
    place_of = {row: place for place, row in enumerate(batch.kl_rows)} if settings.loss.needs_kl else {}

    def passes(rows: IntArray | None) -> int:
        if rows is None or not policy.sharded:
            return 0
        kl_pairs = [batch.kl_pairs[place_of[row]] for row in sorted(rows.tolist()) if row in place_of]
        return len(policy.kl_cuts(kl_pairs, token_budget=settings.token_budget)) if kl_pairs else 0

    rounds = []
    for at_once in zip_longest(*_cuts(policy, batch, settings)):
        counts, own = [passes(rows) for rows in at_once], at_once[policy.world.rank]
        cut = None if own is None else _cut_of(policy, batch, sorted(own.tolist()), place_of)
        rounds.append(Round(cut, max(counts), counts[policy.world.rank]))
    return rounds


def _cuts(policy: Policy, batch: StepBatch, settings: StepSettings) -> list[list[IntArray]]:
    """For each process its cuts: places of rows. Where z0 is a cut's own, whole cuts are dealt to the processes."""
    members: dict[int, list[int]] = {}
    for row, unit in enumerate(batch.units):
        members.setdefault(unit, []).append(row)
    units, size, budget = list(members.values()), policy.world.size, settings.token_budget
    if size == 1 or settings.kl_scope == "microbatch":
        min_rows = MIN_KL_ROWS if settings.kl_scope == "microbatch" else 1
        cuts = policy.cuts(batch.pairs, units, token_budget=budget, min_rows=min_rows)
        costs = [sum(len(ids) for row in cut for ids in batch.pairs[row]) for cut in cuts]
        return [cuts] if size == 1 else [[cuts[place] for place in places] for places in deal(costs, size)]
    shares = share_units(batch.pairs, units, size, share=policy.share and policy.path == "packed")
    return [_cut_share(policy, batch, [units[unit] for unit in share], budget) for share in shares]


def _cut_share(policy: Policy, batch: StepBatch, units: Sequence[Sequence[int]], token_budget: int) -> list[IntArray]:
    rows = np.asarray([row for unit in units for row in unit], dtype=np.int64)
    ends = np.cumsum([len(unit) for unit in units]).tolist()
    own = [range(end - len(unit), end) for unit, end in zip(units, ends, strict=True)]
    return [rows[cut] for cut in policy.cuts([batch.pairs[row] for row in rows], own, token_budget=token_budget)]


def _cut_of(policy: Policy, batch: StepBatch, rows: list[int], place_of: dict[int, int]) -> Cut:
    places = [(local, place_of[row]) for local, row in enumerate(rows) if row in place_of]
    return Cut(
        rows=to_device(rows, policy.device),
        pairs=[batch.pairs[row] for row in rows],
        kl_pairs=[batch.kl_pairs[place] for _, place in places],
        kl_rows=[local for local, _ in places],
        kl_places=to_device(np.asarray([place for _, place in places], dtype=np.int64), policy.device),
    )
