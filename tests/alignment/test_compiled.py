"""Compiled layers: the same numbers, and no compilation per batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from tests.alignment import tiny
from worker.alignment import policy as policy_module
from worker.alignment.compiled import compile_layers
from worker.alignment.dataset import Pair
from worker.alignment.errors import ModelError
from worker.alignment.generate import Sampling, generate
from worker.alignment.memory import recompute_layers
from worker.alignment.policy import Policy, load_policy

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler warns of its own inner workings


@pytest.fixture(autouse=True)
def _forget_graphs() -> None:
    torch._dynamo.reset()
    counters.clear()


def two_policies(
    folder: Path, monkeypatch: pytest.MonkeyPatch, compiler: Callable[[Any], object]
) -> tuple[Policy, Policy]:
    """One as written and one compiled by ``compiler``, moved off the reference in the same way."""
    tiny.save_model(folder / "model")
    monkeypatch.setattr(policy_module, "compile_layers", compiler)
    plain, compiled = (load_policy(str(folder / "model"), tiny.config(compile=on)) for on in (False, True))
    both = plain, compiled
    for policy in both:
        torch.manual_seed(11)
        for parameter in policy.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return both


def batch(seed: int) -> list[Pair]:
    """One to eight rows of any lengths."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers((3, 2), (30, 30), size=(int(rng.integers(1, 9)), 2))
    return [Pair(*(rng.integers(3, 300, size) for size in pair)) for pair in sizes]


def gradients(policy: Policy, pairs: list[Pair]) -> list[torch.Tensor]:
    policy.model.zero_grad()
    policy.logps(pairs).sum().backward()  # type: ignore[no-untyped-call]
    return [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]


def test_other_batches_compile_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []  # traced and guarded as ever, and not translated
    plain, compiled = two_policies(tmp_path, monkeypatch, lambda lm: found.append(compile_layers(lm, backend="eager")))
    assert found == [2]
    recompute_layers(compiled.lm, 1)
    graphs = []
    for seed in range(3):
        pairs = batch(seed)
        for ours, theirs in zip(gradients(compiled, pairs), gradients(plain, pairs), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            assert torch.allclose(compiled.logps(pairs), plain.logps(pairs), rtol=1e-5)
        with plain.as_reference(), compiled.as_reference():
            assert torch.allclose(compiled.logps(pairs), plain.logps(pairs), rtol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert 0 < graphs[0] <= 40
    assert graphs == [graphs[0]] * 3

    prompts, sampling = [[5, 6, 7], [9, 10]], Sampling(max_new_tokens=6, temperature=0)
    assert generate(compiled.model, compiled.tokenizer, prompts, sampling) == generate(
        plain.model, plain.tokenizer, prompts, sampling
    )
    assert counters["stats"]["unique_graphs"] == graphs[0]  # sampling runs as written


@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU, and g++ is missing"
)
def test_a_compiled_layer_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    plain, compiled = two_policies(
        tmp_path, monkeypatch, lambda lm: compile_layers(lm.model.layers[0])
    )  # one layer: quicker
    for seed in range(2):
        pairs = batch(seed)
        for ours, theirs in zip(gradients(compiled, pairs), gradients(plain, pairs), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert counters["inductor"]


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="compile: this model has no layers"):
        compile_layers(torch.nn.Linear(2, 2))
