"""Traps of KTO trainers that no other file's subject covers (docs/kto.md lists them)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.alignment import tiny
from tests.alignment.steps import disturb, policy_of, rows_of, scored, step
from worker.alignment.config import LoraSettings
from worker.alignment.reporters import JsonlReporter
from worker.alignment.trainer import train


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest result of any operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return found


@pytest.mark.parametrize("what", ["reference", "weights"])
def test_trap_07_the_fused_head_ignores_neither_reference_nor_weights(tmp_path: Path, what: str) -> None:
    policy = policy_of(tmp_path, "llama")
    disturb(policy)
    split = scored(tmp_path, policy, rows_of(tmp_path, policy))
    before, _ = step(policy, split)
    if what == "reference":
        after, _ = step(policy, replace(split, logps=split.logps - 5.0))
        assert after.rewards is not None
        assert before.rewards is not None
        assert torch.allclose(after.rewards, before.rewards + 0.1 * 5.0)
    else:
        after, _ = step(policy, split, desirable_weight=3.0)
    assert abs(after.loss - before.loss) > 0.005


def run(folder: Path, attempt: int, **changes: Any) -> tuple[int, int]:
    """Reference log-probs (computed, from the cache) that a run tells of."""
    spec = tiny.spec(folder, attempt=attempt, max_steps=1, **changes)
    reporter = JsonlReporter(spec.events_path)
    train(spec, reporter)
    reporter.close()
    (told,) = [e["data"] for e in tiny.events(spec.events_path.parent) if e["data"].get("text", "").startswith("Ref")]
    total = int(told["text"].split(" computed, ")[1].split(" ")[0].replace(",", "")) + told["detail"]["computed"]
    return told["detail"]["computed"], total


def test_trap_12_the_cache_outlives_what_the_reference_does_not_depend_on(tmp_path: Path) -> None:
    computed, total = run(tmp_path, 1)
    assert computed == total > 0
    others: list[dict[str, Any]] = [
        {"seed": 9},
        {"beta": 0.3, "learning_rate": 1e-4, "batch_size": 5},
        {"lora": LoraSettings(r=8, alpha=4, rslora=True)},
        {"tokens_per_microbatch": 150, "desirable_weight": 2.0},
    ]
    for number, changes in enumerate(others):
        assert run(tmp_path, 2 + number, **changes) == (0, total)
    assert run(tmp_path, 7, precision="bfloat16") == (total, total)
    assert run(tmp_path, 8, attention="eager") == (total, total)


def test_trap_16_nothing_of_the_vocabularys_size_is_made_for_every_token(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama")
    vocab, hidden = 60_000, policy.lm.config.hidden_size
    wide = torch.nn.Linear(hidden, vocab, bias=False).requires_grad_(requires_grad=False)
    assert policy.head is not None
    policy.head = replace(policy.head, layer=wide)
    rows = rows_of(tmp_path, policy, 40)
    split = scored(tmp_path, policy, rows)
    tokens = sum(len(row.pair.completion_ids) for row in rows)
    with LargestTensor() as largest:
        step(policy, split, tokens_per_microbatch=10_000)
    assert tokens > 512
    assert largest.numel <= max(512 * 2048, vocab * hidden)
    assert largest.numel < tokens * vocab / 10
