"""One of two processes that compute steps together, and the same steps alone; rank 0 writes what they differ by.

Run by torchrun from test_distributed.py: ``distributed_child.py FOLDER``.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from tests.alignment import steps, tiny
from worker.alignment.config import Attention, LoraSettings, Objective
from worker.alignment.data import ScoredSplit, SplitToScore, score_reference
from worker.alignment.dataset import Pair, Row, load_split
from worker.alignment.distributed import ALONE, World, join_world, leave_world
from worker.alignment.memory import recompute_layers
from worker.alignment.policy import Policy, load_policy
from worker.alignment.probe import probe
from worker.alignment.reference import ReferenceCache
from worker.alignment.sharding import shard_base
from worker.alignment.step import StepResult
from worker.alignment.units import form_units

Kind = Literal["alone", "ddp", "fsdp"]
KINDS: tuple[Kind, ...] = ("ddp", "fsdp")
WHOLE = 100_000
POISON = 5
NOISY = LoraSettings(r=4, alpha=8, dropout=0.5)


@dataclass(frozen=True, kw_only=True)
class Case:
    units: Sequence[int]
    objective: Objective = "kto"
    budget: int = WHOLE
    architecture: str = "llama"
    changes: dict[str, Any] = field(default_factory=dict)
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(r=4, alpha=8))
    recompute: int = 0
    attention: Attention = "auto"
    probe: bool = False
    poison: bool = False
    """The fourth row has a token whose embedding is not finite; the reference was scored without it."""


CASES: dict[str, Case] = {
    "one microbatch": Case(units=range(12), probe=True),
    "several microbatches": Case(units=range(12), budget=90),
    "several KL passes beside one microbatch": Case(units=[20, 21, 22, 23, 24, 25], budget=260),
    "an odd number of rows": Case(units=range(7), budget=150),
    "one row": Case(units=[3]),
    "a class for each process": Case(units=[0, 1]),
    "one class": Case(units=[0, 2, 4, 6]),
    "a process with one long row, the other with many cuts": Case(units=[39, *range(12)], budget=64),
    "completions of one token": Case(units=[36, 37, 38]),
    "z0 of each microbatch": Case(units=range(40), budget=300, changes={"kl_scope": "microbatch", "batch_size": 40}),
    "shared prefixes": Case(units=range(26, 36)),
    "dpo": Case(units=range(8), objective="dpo"),
    "dpo, several microbatches": Case(units=range(7), objective="dpo", budget=120),
    "sft": Case(units=range(5), objective="sft", budget=90),
    "no z0": Case(units=range(9), objective="apo_zero_unpaired", budget=150),
    "padded": Case(units=range(9), attention="eager", budget=150),
    "layers recomputed": Case(units=range(9), recompute=2, budget=150),
    "layers recomputed, one microbatch": Case(units=range(9), recompute=1, architecture="gemma2"),
    "dora": Case(units=range(7), lora=LoraSettings(r=4, alpha=8, dora=True)),
    "a row that is not finite": Case(units=range(6), architecture="qwen3", poison=True),
    "dropout": Case(units=range(9), lora=NOISY, budget=150),
    "dropout, one microbatch": Case(units=range(3), lora=NOISY),
}


def policy_of(folder: Path, case: Case, kind: Kind, world: World) -> Policy:
    """In float64, off the reference, and the same whatever the kind."""
    policy = load_policy(str(folder / case.architecture), tiny.config(lora=case.lora, attention=case.attention))
    if case.poison:
        policy.lm.get_input_embeddings().weight.data[POISON] = float("nan")
    policy.model.double()
    policy.dtype = torch.float64
    steps.disturb(policy, 0.2)
    recompute_layers(policy.lm, case.recompute)
    if kind != "alone":
        policy.world = world
    if kind == "fsdp":
        policy.sharded = True
        shard_base(policy.root, policy.device, world.size)
        assert all(isinstance(p, DTensor) != p.requires_grad for p in policy.model.parameters())
    return policy


def split_of(policy: Policy, folder: Path, rows: list[Row], objective: Objective) -> ScoredSplit:
    cache = ReferenceCache(folder / f"cache-{policy.world.size}-{policy.sharded}-{policy.path}", "00" * 32)
    units = form_units(rows, tiny.config(objective=objective)).units
    splits, _ = score_reference(
        policy,
        [SplitToScore(rows=rows, units=units)],
        cache,
        max_length=256,
        token_budget=200,
        on_progress=lambda _done, _total: None,
    )
    return splits[0]


def compute(folder: Path, case: Case, kind: Kind, world: World) -> tuple[StepResult, dict[str, torch.Tensor]]:
    policy = policy_of(folder, case, kind, world)
    rows = load_split(folder / "data" / "train.jsonl", policy.tokenizer, max_length=256).rows
    rows[36:39] = [replace(row, pair=Pair(row.pair.prompt_ids, row.pair.completion_ids[:1])) for row in rows[36:39]]
    if case.probe:
        assert probe(policy, [row.pair for row in rows[:3]]) is None
    split = split_of(policy, folder, rows, case.objective)
    if case.poison:
        pair = split.rows[3].pair
        split.rows[3] = replace(split.rows[3], pair=Pair(np.append(pair.prompt_ids[:-1], POISON), pair.completion_ids))
    return steps.step(
        policy, split, case.units, objective=case.objective, tokens_per_microbatch=case.budget, **case.changes
    )


def difference(ours: StepResult, theirs: StepResult) -> float:
    """The largest of all numbers of a step, relative."""
    pairs = [(ours.loss, theirs.loss), *zip(ours.logps.tolist(), theirs.logps.tolist(), strict=True)]
    if theirs.kl is not None and ours.kl is not None:
        pairs += [(float(ours.kl.raw), float(theirs.kl.raw)), (float(ours.kl.clamped), float(theirs.kl.clamped))]
    if theirs.rewards is not None and ours.rewards is not None:
        pairs += list(zip(ours.rewards.tolist(), theirs.rewards.tolist(), strict=True))
    assert (ours.accuracy, ours.bad_ids) == (theirs.accuracy, theirs.bad_ids)
    pairs = [(one, two) for one, two in pairs if not (math.isnan(one) and math.isnan(two))]
    return float(np.max([abs(one - two) / max(abs(two), 1e-3) for one, two in pairs]))


def main(folder: Path) -> None:
    world = join_world()
    found: dict[str, dict[str, Any]] = {}
    for name, case in CASES.items():
        alone, alone_grads = compute(folder, case, "alone", ALONE) if world.is_main else (None, {})
        for kind in KINDS:
            result, grads = compute(folder, case, kind, world)
            norms = world.gather(float(torch.stack([grad.norm() for grad in grads.values()]).norm()))
            if alone is None:
                continue
            found[f"{kind}: {name}"] = {
                "numbers": difference(result, alone),
                "bad": result.bad_ids,
                "gradient": steps.relative(grads, alone_grads),
                "between": max(norms) - min(norms),
                "norm": norms[0],
            }
    if world.is_main:
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    leave_world(world)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # as worker.alignment does
