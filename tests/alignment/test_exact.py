"""The trainer's step against the naive witness, on every model family and however it is cut."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.alignment import naive, tiny
from worker.alignment.attention import choose_backend
from worker.alignment.config import LoraSettings
from worker.alignment.data import ScoredSplit, score_reference
from worker.alignment.dataset import Pair, Row, load_split
from worker.alignment.logps import Head, frozen_head_logps, sum_by_row
from worker.alignment.policy import Policy, load_policy, probe
from worker.alignment.prepare import probe_rows
from worker.alignment.reference import ReferenceCache
from worker.alignment.step import StepResult, backward_step

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


def scored(folder: Path, policy: Policy, rows: list[Row]) -> ScoredSplit:
    cache = ReferenceCache(folder / "cache", "00" * 32)
    (split,), _ = score_reference(
        policy, [rows], cache, max_length=128, token_budget=200, on_progress=lambda _done, _total: None
    )
    return split


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}


def step(policy: Policy, split: ScoredSplit, **changes: Any) -> tuple[StepResult, dict[str, torch.Tensor]]:
    policy.model.zero_grad()
    result = backward_step(policy, split.batch(range(len(split.rows))), tiny.config(**changes))
    return result, gradients(policy)


def relative(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    difference = sum(float((ours[n].double() - theirs[n].double()).square().sum()) for n in ours)
    return float((difference / sum(float(g.double().square().sum()) for g in theirs.values())) ** 0.5)


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("scale", [0.1, 0.35])
def test_step_equals_the_naive_float64_witness(tmp_path: Path, architecture: str, scale: float) -> None:
    policy = policy_of(tmp_path, architecture)
    rows = rows_of(tmp_path, policy)
    policy.model.double()
    policy.dtype = torch.float64
    assert probe(policy, [row.pair for row in probe_rows(rows)]) is None
    assert policy.path == "packed"
    disturb(policy, scale)
    split = scored(tmp_path, policy, rows)
    weights = {"desirable_weight": 1.7, "undesirable_weight": 0.8}
    ours, grads = step(policy, split, beta=0.2, **weights)
    policy.lm.set_attn_implementation("eager")
    labels = [row.label for row in rows]
    theirs = naive.kto_step(policy.model, [row.pair for row in rows], labels, split.kl_pairs, 0.2, (1.7, 0.8))
    # transformers computes rotary tables, norms and the softmax in float32 even for float64 models
    assert torch.allclose(ours.logps.double(), theirs.policy, rtol=1e-6, atol=0)
    assert torch.allclose(torch.from_numpy(split.logps), theirs.reference, rtol=1e-6, atol=0)
    assert float(ours.kl.raw) == pytest.approx(float(theirs.kl.mean()), rel=1e-5, abs=1e-5)
    assert float(ours.kl.clamped) == pytest.approx(float(theirs.z0), rel=1e-5, abs=1e-5)
    assert ours.loss == pytest.approx(float(theirs.loss), rel=1e-6)
    assert relative(grads, theirs.grads) < 1e-5
    assert ours.bad_ids == []


def test_step_equals_the_witness_with_z0_above_zero(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama")
    rows = rows_of(tmp_path, policy)
    policy.model.double()
    policy.dtype = torch.float64
    split = scored(tmp_path, policy, rows)
    disturb(policy, 0.05)
    for _ in range(3):  # make every mismatched completion likelier than under the reference
        policy.model.zero_grad()
        (-policy.logps(split.kl_pairs).sum()).backward()  # type: ignore[no-untyped-call]
        for parameter in policy.parameters():
            assert parameter.grad is not None
            parameter.data -= 0.02 * parameter.grad / parameter.grad.norm()
    ours, grads = step(policy, split)
    policy.lm.set_attn_implementation("eager")
    theirs = naive.kto_step(
        policy.model, [row.pair for row in rows], [row.label for row in rows], split.kl_pairs, 0.1, (1.0, 1.0)
    )
    assert float(theirs.z0) > 0.1
    assert float(ours.kl.clamped) == pytest.approx(float(theirs.z0), rel=1e-5)
    assert ours.loss == pytest.approx(float(theirs.loss), rel=1e-6)
    assert relative(grads, theirs.grads) < 1e-5


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_float32_stays_close_to_the_witness(tmp_path: Path, architecture: str) -> None:
    policy = policy_of(tmp_path, architecture)
    rows = rows_of(tmp_path, policy)
    disturb(policy)
    split = scored(tmp_path, policy, rows)
    ours, grads = step(policy, split)
    policy.model.double()
    policy.lm.set_attn_implementation("eager")
    theirs = naive.kto_step(
        policy.model, [row.pair for row in rows], [row.label for row in rows], split.kl_pairs, 0.1, (1.0, 1.0)
    )
    assert ours.loss == pytest.approx(float(theirs.loss), abs=1e-5)
    assert relative(grads, theirs.grads) < 1e-4


@pytest.mark.parametrize("path", ["packed", "padded", "dense"])
def test_gradient_does_not_depend_on_the_cut(tmp_path: Path, path: Any) -> None:
    policy = policy_of(tmp_path, "mistral")
    disturb(policy)
    rows = rows_of(tmp_path, policy)
    split = scored(tmp_path, policy, rows)
    whole, whole_grads = step(policy, split, tokens_per_microbatch=10_000)
    policy.path = path
    for budget in (64, 150, 400):
        result, grads = step(policy, split, tokens_per_microbatch=budget)
        assert result.loss == pytest.approx(whole.loss, rel=1e-6)
        assert float(result.kl.raw) == pytest.approx(float(whole.kl.raw), rel=1e-4)  # one z0 for the step, not per cut
        assert torch.allclose(result.logps, whole.logps, rtol=1e-5)
        assert relative(grads, whole_grads) < 2e-5


@pytest.mark.parametrize("architecture", FAMILIES)
def test_step_zero_is_the_reference(tmp_path: Path, architecture: str) -> None:
    policy = policy_of(tmp_path, architecture)
    split = scored(tmp_path, policy, rows_of(tmp_path, policy))
    result, _ = step(policy, split, desirable_weight=1.5)
    mean_weight = sum(1.5 if row.label else 1.0 for row in split.rows) / len(split.rows)
    assert result.loss == pytest.approx(mean_weight / 2, abs=1e-5)
    assert float(result.kl.clamped) == pytest.approx(0, abs=1e-4)
    assert result.rewards.abs().max() < 1e-4


def test_step_zero_is_the_reference_in_bfloat16_too(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama", precision="bfloat16")
    split = scored(tmp_path, policy, rows_of(tmp_path, policy))
    result, _ = step(policy, split)
    assert result.rewards.abs().max() < 0.01
    assert result.loss == pytest.approx(0.5, abs=1e-3)


def test_the_base_models_own_dropout_is_off(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "llama")
    settings = json.loads((tmp_path / "llama" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "llama" / "config.json").write_text(json.dumps(settings | {"attention_dropout": 0.5}), encoding="utf-8")
    policy = load_policy(str(tmp_path / "llama"), tiny.config())
    pairs = [row.pair for row in rows_of(tmp_path, policy)]
    for path in ("packed", "padded", "dense"):
        policy.path = path
        with policy.training_noise():
            assert torch.equal(policy.logps(pairs), policy.logps(pairs))


def test_lora_dropout_is_off_where_nothing_is_learnt(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama", lora=LoraSettings(r=4, alpha=8, dropout=0.5))
    disturb(policy)
    split = scored(tmp_path, policy, rows_of(tmp_path, policy))
    torch.manual_seed(1)
    first, grads = step(policy, split)
    torch.manual_seed(2)
    second, other = step(policy, split)
    assert float(first.kl.raw) == float(second.kl.raw)
    assert relative(grads, other) > 1e-2


def test_probe_leaves_the_packed_path_for_a_model_that_leaks(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama")
    pairs = [row.pair for row in rows_of(tmp_path, policy)]
    layer = policy.lm.model.layers[0]
    forward = layer.forward

    def leaking(
        hidden: torch.Tensor, *rest: Any, **options: Any
    ) -> Any:  # like a causal convolution: sees its neighbour
        return forward(
            hidden + 0.5 * torch.roll(hidden, 1, dims=1) * (torch.arange(hidden.shape[1])[:, None] > 0),
            *rest,
            **options,
        )

    layer.forward = leaking
    notice = probe(policy, pairs)
    assert policy.path == "padded"
    assert notice is not None
    assert "padded" in notice


def test_probe_takes_the_dense_head_where_the_logits_differ(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama")
    policy.lm.lm_head.register_forward_hook(lambda _module, _inputs, output: output * 1.5)
    notice = probe(policy, [row.pair for row in rows_of(tmp_path, policy)])
    assert policy.path == "dense"
    assert notice is not None


def test_lora_on_the_head_takes_the_dense_path(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "qwen3", lora=LoraSettings(r=4, alpha=8, target_modules=("q_proj", "lm_head")))
    assert policy.head is None
    rows = rows_of(tmp_path, policy)
    assert probe(policy, [row.pair for row in rows]) is not None
    _, grads = step(policy, scored(tmp_path, policy, rows))
    assert any("lm_head" in name and float(grad.abs().sum()) > 0 for name, grad in grads.items())


def test_eager_setting_is_the_padded_path(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama", attention="eager")
    assert policy.path == "padded"
    assert policy.attention_words == "the model's own eager attention, padded"


def test_named_gpu_backends_are_refused_on_a_cpu() -> None:
    for name in ("flash", "varlen"):
        with pytest.raises(ValueError, match=name):
            choose_backend(name, torch.device("cpu"), torch.float32)
    assert choose_backend("auto", torch.device("cpu"), torch.float32) == "sdpa"


def test_generation_still_works_beside_packed_scoring(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "gemma3")
    pair = rows_of(tmp_path, policy)[0].pair
    policy.logps([pair])
    ids = torch.from_numpy(pair.prompt_ids)[None]
    out = policy.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    plain = AutoModelForCausalLM.from_pretrained(policy.folder, dtype=torch.float32)
    assert (
        out.tolist()
        == plain.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False
        ).tolist()
    )


@pytest.mark.parametrize(
    "head", [Head(torch.zeros(0)), Head(torch.zeros(0), scale=0.3), Head(torch.zeros(0), softcap=2.0)]
)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_frozen_head_equals_autograd(head: Head, chunk: int) -> None:
    torch.manual_seed(0)
    head = replace(head, weight=torch.randn(11, 5, dtype=torch.float64), bias=torch.randn(11, dtype=torch.float64))
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (7,))
    upstream = torch.randn(7, dtype=torch.float64)
    logps = frozen_head_logps(hidden, targets, head, chunk=chunk)
    (ours,) = torch.autograd.grad(logps, hidden, upstream)
    assert head.bias is not None
    raw = head.scale * (hidden @ head.weight.T + head.bias)
    capped = raw if head.softcap is None else head.softcap * torch.tanh(raw / head.softcap)
    dense = capped.log_softmax(-1)[torch.arange(7), targets]
    (expected,) = torch.autograd.grad(dense, hidden, upstream)
    assert torch.allclose(logps, dense)
    assert torch.allclose(ours, expected)


def test_sum_by_row() -> None:
    assert sum_by_row(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 1])).tolist() == [3.0, 4.0]


def test_logps_of_one_token_completion(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama")
    pair = rows_of(tmp_path, policy)[0].pair
    short = Pair(pair.prompt_ids, pair.completion_ids[:1])
    expected = naive.of_pair(policy.model, short).detach()
    assert float(policy.logps([short, pair]).detach()[0]) == pytest.approx(float(expected), rel=1e-5)
