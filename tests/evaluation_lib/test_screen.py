from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation_lib.support import tiny_model, tiny_tokenizer, with_adapter
from worker.alignment.config import EvaluationSettings
from worker.alignment.evaluation.screen import HeldoutRows, PromptCase, screen, select_prompts
from worker.alignment.generate import generate

SETTINGS = EvaluationSettings(samples_per_prompt=3, prompts_per_category=2, max_categories=40, max_new_tokens=12)


def cases(num_categories: int = 32, per_category: int = 3) -> list[PromptCase]:
    found = []
    for category in range(num_categories):
        for number in range(per_category):
            messages = [{"role": "user", "content": f"w{category} w{number}"}]
            found.append(
                PromptCase(category=f"c{category:02d}", messages=messages, token_ids=(2, 5 + category, 5 + number, 3))
            )
    return found


def heldout() -> HeldoutRows:
    rng = np.random.default_rng(0)
    keys = np.repeat(np.arange(40), 2).astype(str).astype(object)
    labels = np.tile([True, False], 40)
    return HeldoutRows(
        labels=labels,
        logratios=rng.normal(size=80) + labels,
        lengths=rng.integers(3, 20, 80),
        prompt_keys=keys,
        roots=keys,
        kl_logratios=rng.normal(size=40),
        kl_roots=keys[::2],
    )


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which arm every real call of ``generate`` sampled: True = policy."""
    seen: list[bool] = []
    real: Callable[..., Any] = generate

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs.get("use_adapter", True))
        return real(*args, **kwargs)

    monkeypatch.setattr("worker.alignment.evaluation.screen.generate", counted)
    return seen


def run(tmp_path: Path, step: int, model: Any, **changes: Any) -> tuple[Any, list[tuple[int, int]]]:
    progress: list[tuple[int, int]] = []
    arguments: dict[str, Any] = {
        "model": model,
        "tokenizer": tiny_tokenizer(),
        "heldout": heldout(),
        "beta": 0.1,
        "prompts": cases(),
        "settings": SETTINGS,
        "step": step,
        "reference_cache": tmp_path / "cache",
        "attempt_dir": tmp_path / "attempt",
        "reference_key": "base",
        "on_progress": lambda done, total: progress.append((done, total)),
    }
    return screen(**(arguments | changes)), progress


def test_a_checkpoint_is_evaluated_and_the_reference_drawn_once(tmp_path: Path, draws: list[bool]) -> None:
    model = with_adapter(tiny_model(), 0.5)
    state = torch.random.get_rng_state()
    first, progress = run(tmp_path, 50, model)
    assert draws == [False, True]
    assert progress[-1] == (128, 128)
    assert torch.equal(state, torch.random.get_rng_state())
    second, progress = run(tmp_path, 100, model)
    assert draws == [False, True, True]
    assert progress[-1] == (64, 64)
    assert second.diversity == first.diversity
    assert first.diversity is not None
    assert (first.diversity.num_categories, first.diversity.num_prompts) == (32, 64)
    assert first.diversity.overall["similarity"].low is not None
    assert first.heldout.auc.value is not None
    assert first.heldout.auc.low is not None
    assert first.samples_path == "evaluations/step-000050/samples.jsonl"
    lines = [json.loads(line) for line in (tmp_path / "attempt" / first.samples_path).read_text().splitlines()]
    assert len(lines) == 32 * 2 * 3 * 2
    assert {line["arm"] for line in lines} == {"reference", "policy"}
    assert set(lines[0]) == {"category", "prompt", "arm", "index", "text", "truncated"}
    assert lines[0]["prompt"][0]["role"] == "user"
    stored = json.loads((tmp_path / "attempt/evaluations/step-000100/result.json").read_text())
    assert stored["diversity"]["overall"]["similarity"]["change"] == second.diversity.overall["similarity"].change
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".json"]


def test_another_reference_sampler_or_damaged_cache_is_drawn_again(tmp_path: Path, draws: list[bool]) -> None:
    model = with_adapter(tiny_model(), 0.5)
    few = {"prompts": cases(3)}
    run(tmp_path, 1, model, **few)
    run(tmp_path, 2, model, **few, reference_key="other base")
    run(tmp_path, 3, model, **few, settings=EvaluationSettings(samples_per_prompt=2, max_new_tokens=12))
    assert draws.count(False) == 3
    for path in (tmp_path / "cache").iterdir():
        path.write_text(path.read_text()[:50])
    run(tmp_path, 4, model, **few)
    run(tmp_path, 5, model, **few)
    assert draws.count(False) == 4


def test_an_adapter_that_does_nothing_changes_nothing(tmp_path: Path) -> None:
    result, _ = run(tmp_path, 1, with_adapter(tiny_model(), 0.0))
    assert result.diversity is not None
    for contrast in result.diversity.overall.values():
        assert contrast.change == 0
        assert (contrast.low, contrast.high) in {(0, 0), (None, None)}  # no interval where nothing varies
    assert result.alarms == []


def test_without_prompts_there_is_no_diversity(tmp_path: Path) -> None:
    result, progress = run(tmp_path, 1, with_adapter(tiny_model(), 0.5), prompts=[])
    assert result.diversity is None
    assert result.heldout.accuracy.value is not None
    assert progress == []


def test_prompts_are_chosen_alike_in_any_order() -> None:
    few = EvaluationSettings(prompts_per_category=2, max_categories=3)
    pool = [*cases(5, 3), *cases(2, 4)]  # c00 and c01 have four different prompts
    chosen = select_prompts(pool, few)
    assert select_prompts(pool[::-1], few) == chosen
    assert [case.category for case in chosen] == ["c00", "c00", "c01", "c01", "c02", "c02"]
    assert len({case.token_ids for case in chosen}) == 6
    assert select_prompts(pool, EvaluationSettings(prompts_per_category=2, max_categories=3, seed=1)) != chosen
