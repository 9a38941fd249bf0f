"""One step of the trainer on a tiny model, for the tests that compare steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.alignment import tiny
from worker.alignment.config import Objective
from worker.alignment.data import ScoredSplit, SplitToScore, score_reference
from worker.alignment.dataset import Row, load_split
from worker.alignment.policy import Policy, load_policy
from worker.alignment.reference import ReferenceCache
from worker.alignment.step import StepResult, StepSettings, backward_step
from worker.alignment.units import form_units

FAMILIES = ["llama", "qwen3", "mistral", "gemma2", "gemma3"]


def policy_of(folder: Path, architecture: str, **changes: Any) -> Policy:
    tiny.save_model(folder / architecture, architecture)
    return load_policy(str(folder / architecture), tiny.config(**changes))


def disturb(policy: Policy, scale: float = 0.3) -> None:
    """Move the policy off the reference: fresh adapters have B = 0."""
    torch.manual_seed(11)
    for parameter in policy.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))


def rows_of(folder: Path, policy: Policy, count: int = 12) -> list[Row]:
    snapshot = tiny.save_snapshot(folder / "data", train=count)
    return load_split(snapshot / "train.jsonl", policy.tokenizer, max_length=128).rows


def scored(folder: Path, policy: Policy, rows: list[Row], objective: Objective = "kto") -> ScoredSplit:
    cache = ReferenceCache(folder / "cache", "00" * 32)
    (split,), _ = score_reference(
        policy,
        [SplitToScore(rows=rows, units=form_units(rows, tiny.config(objective=objective)).units)],
        cache,
        max_length=128,
        token_budget=200,
        on_progress=lambda _done, _total: None,
    )
    return split


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}


def step(
    policy: Policy, split: ScoredSplit, units: Sequence[int] | None = None, **changes: Any
) -> tuple[StepResult, dict[str, torch.Tensor]]:
    policy.model.zero_grad()
    policy.share = changes.pop("share_prefixes", True)
    policy.continues = changes.pop("continues", True)
    result = backward_step(
        policy,
        split.batch(range(len(split.units)) if units is None else units),
        StepSettings.of(tiny.config(**changes)),
    )
    return result, gradients(policy)


def relative(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    difference = sum(float((ours[n].double() - theirs[n].double()).square().sum()) for n in ours)
    return float((difference / sum(float(g.double().square().sum()) for g in theirs.values())) ** 0.5)
