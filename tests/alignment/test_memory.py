"""Recomputing layers changes memory, never numbers; and what a step takes is measured without leaving a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.alignment import tiny
from worker.alignment.config import LoraSettings
from worker.alignment.dataset import Pair
from worker.alignment.memory import decoder_layers, measure_step, peak_meter, recompute_layers, recomputing
from worker.alignment.policy import Policy, load_policy


def policy_of(folder: Path, architecture: str = "llama", *, dropout: float = 0.0) -> Policy:
    policy = load_policy(
        str(tiny.save_model(folder, architecture)), tiny.config(lora=LoraSettings(r=4, alpha=8, dropout=dropout))
    )
    torch.manual_seed(1)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return policy


def pairs_of(count: int = 5) -> list[Pair]:
    chance = np.random.default_rng(3)
    return [Pair(chance.integers(3, 300, 9 + 7 * n), chance.integers(3, 300, 21 - 3 * n)) for n in range(count)]


def gradients(policy: Policy, *, noise: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(5)
    if noise:
        with policy.training_noise():
            logps = policy.logps(pairs_of())
    else:
        logps = policy.logps(pairs_of())
    logps.sum().backward()  # type: ignore[no-untyped-call]
    found = [parameter.grad for parameter in policy.parameters()]
    for parameter in policy.parameters():
        parameter.grad = None
    assert all(grad is not None and bool(grad.abs().sum() > 0) for grad in found)
    return [grad for grad in found if grad is not None]


def assert_equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_gradients_are_the_same_with_layers_recomputed(tmp_path: Path, architecture: str) -> None:
    policy = policy_of(tmp_path, architecture)
    plain = gradients(policy)
    for count in (1, 2):
        recompute_layers(policy.lm, count)
        assert_equal(gradients(policy), plain)


def test_an_ordinary_forward_has_the_same_gradients(tmp_path: Path) -> None:
    policy = policy_of(tmp_path)
    ids = torch.arange(3, 40)[None]

    def run() -> list[torch.Tensor]:
        policy.lm(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        found = [parameter.grad.clone() for parameter in policy.parameters() if parameter.grad is not None]
        policy.model.zero_grad(set_to_none=True)
        return found

    plain = run()
    recompute_layers(policy.lm, 2)
    assert plain
    assert_equal(run(), plain)


def test_lora_dropout_drops_the_same_again_although_backward_runs_outside_training_noise(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, dropout=0.3)
    plain = gradients(policy, noise=True)
    quiet = gradients(policy)
    recompute_layers(policy.lm, 2)
    assert_equal(gradients(policy, noise=True), plain)
    assert not torch.allclose(plain[0], quiet[0])
    assert not any(module.training for module in policy.model.modules())


def test_layers_run_twice_only_under_gradient_and_say_so(tmp_path: Path) -> None:
    policy = policy_of(tmp_path)
    seen: list[bool] = []
    for layer in decoder_layers(policy.lm):
        layer.get_submodule("mlp").register_forward_pre_hook(lambda *_: seen.append(recomputing()))
    recompute_layers(policy.lm, 1)
    with torch.no_grad():
        policy.logps(pairs_of())
    assert seen == [False, False]
    gradients(policy)
    assert seen == [False, False, False, False, True]
    recompute_layers(policy.lm, 0)
    gradients(policy)
    assert seen[5:] == [False, False]
    assert not recomputing()
    assert "forward" not in decoder_layers(policy.lm)[0].__dict__  # the last one has the tail's


def test_recomputed_layers_keep_only_their_input(tmp_path: Path) -> None:
    policy = policy_of(tmp_path)
    kept: dict[int, int] = {}
    for count in (0, 1, 2):
        recompute_layers(policy.lm, count)
        kept[count] = kept_bytes(policy)
    assert kept[1] < 0.7 * kept[0]
    assert kept[2] < 0.3 * kept[0]


def kept_bytes(policy: Policy) -> int:
    """Of the tensors that autograd saved, each storage once, weights left out."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in policy.model.parameters()}
    saved: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        policy.logps(pairs_of())
    return sum(storage.nbytes() for storage in saved.values())


def test_a_measured_step_leaves_no_trace(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, dropout=0.3)
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    torch.manual_seed(11)
    state = torch.get_rng_state()

    def step() -> None:
        with policy.training_noise():
            policy.logps(pairs_of()).sum().backward()  # type: ignore[no-untyped-call]

    cost = measure_step(policy.device, policy.parameters(), step)
    assert cost.seconds > 0
    assert cost.peak_bytes > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_the_meter_sees_what_was_freed_again() -> None:
    with peak_meter(torch.device("cpu")) as meter:
        torch.ones(32 << 20).sum()  # 128 MiB
    assert meter.peak_bytes - meter.before_bytes > 100 << 20
    with peak_meter(torch.device("cpu")) as after:
        torch.ones(1 << 20).sum()
    assert after.peak_bytes < meter.peak_bytes - (64 << 20)


@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own inner workings
def test_compiled_layers_are_recomputed_outside_their_graph(tmp_path: Path) -> None:
    policy = policy_of(tmp_path)
    plain = gradients(policy)
    for layer in decoder_layers(policy.lm):
        layer.compile(backend="eager", dynamic=True)
    recompute_layers(policy.lm, 2)
    assert_equal(gradients(policy), plain)
    assert kept_bytes(policy) < 0.3 * kept_bytes(policy_of(tmp_path / "plain"))
