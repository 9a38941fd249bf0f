"""The trainer's step against the naive witness: every objective, on every model family and however it is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.alignment import naive, tiny
from tests.alignment.steps import FAMILIES, disturb, policy_of, relative, rows_of, scored, step
from worker.alignment.config import LoraSettings, Objective
from worker.alignment.data import ScoredSplit
from worker.alignment.dataset import Row, load_split
from worker.alignment.packing import pack_pairs
from worker.alignment.policy import Policy, load_policy
from worker.alignment.prepare import probe_rows
from worker.alignment.probe import probe

ONE_PASS = 10_000


def double(policy: Policy) -> Policy:
    policy.model.double()
    policy.dtype = torch.float64
    return policy


def witness(policy: Policy, split: ScoredSplit, beta: float, weights: tuple[float, float] = (1, 1)) -> naive.NaiveStep:
    policy.lm.set_attn_implementation("eager")
    pairs, labels = [row.pair for row in split.rows], [row.label for row in split.rows]
    return naive.kto_step(policy.model, pairs, labels, split.kl_pairs, beta, weights)


def ratings_of_few_prompts(folder: Path, policy: Policy) -> list[Row]:
    """A long system prompt for all, prompts with three ratings, and a second turn that begins with a first one's answer."""
    system = {"role": "system", "content": " ".join(tiny.WORDS)}
    records = []
    for number in range(12):
        prompt = [system, {"role": "user", "content": f"{tiny.WORDS[number // 3]} {number // 3}?"}]
        records.append(tiny.record(number, prompt=prompt, root=f"root-{number // 3}", label=number % 3 == 0))
    first = records[0]
    follow = [*first["prompt"], *first["completion"], {"role": "user", "content": "why so?"}]
    records += [tiny.record(20 + n, prompt=follow, root="root-0", label=n == 0) for n in range(2)]
    snapshot = tiny.save_snapshot(folder / "shared", records=records)
    return load_split(snapshot / "train.jsonl", policy.tokenizer, max_length=400).rows


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize(("scale", "budget"), [(0.1, ONE_PASS), (0.35, ONE_PASS), (0.35, 300)])
def test_step_equals_the_naive_float64_witness(tmp_path: Path, architecture: str, scale: float, budget: int) -> None:
    policy = policy_of(tmp_path, architecture)
    rows = rows_of(tmp_path, policy)
    double(policy)
    assert probe(policy, [row.pair for row in probe_rows(rows)]) is None
    assert (policy.path, policy.share, policy.continues) == ("packed", True, True)
    disturb(policy, scale)
    split = scored(tmp_path, policy, rows)
    weights: dict[str, Any] = {"desirable_weight": 1.7, "undesirable_weight": 0.8}
    ours, grads = step(policy, split, beta=0.2, tokens_per_microbatch=budget, **weights)
    theirs = witness(policy, split, 0.2, (1.7, 0.8))
    # transformers computes rotary tables, norms and the softmax in float32 even for float64 models
    assert torch.allclose(ours.logps, theirs.policy, rtol=1e-6, atol=0)
    assert torch.allclose(torch.from_numpy(split.logps), theirs.reference, rtol=1e-6, atol=0)
    assert ours.kl is not None
    assert float(ours.kl.raw) == pytest.approx(float(theirs.kl.mean()), rel=1e-5, abs=1e-5)
    assert float(ours.kl.clamped) == pytest.approx(float(theirs.z0), rel=1e-5, abs=1e-5)
    assert ours.loss == pytest.approx(float(theirs.loss), rel=1e-6)
    assert relative(grads, theirs.grads) < 1e-5
    assert ours.bad_ids == []


@pytest.mark.parametrize("budget", [ONE_PASS, 300])
def test_step_equals_the_witness_with_z0_above_zero(tmp_path: Path, budget: int) -> None:
    policy = policy_of(tmp_path, "llama")
    rows = rows_of(tmp_path, policy)
    split = scored(tmp_path, double(policy), rows)
    disturb(policy, 0.05)
    for _ in range(3):  # make every mismatched completion likelier than under the reference
        policy.model.zero_grad()
        (-policy.logps(split.kl_pairs).sum()).backward()  # type: ignore[no-untyped-call]
        for parameter in policy.parameters():
            assert parameter.grad is not None
            parameter.data -= 0.02 * parameter.grad / parameter.grad.norm()
    ours, grads = step(policy, split, tokens_per_microbatch=budget)
    theirs = witness(policy, split, 0.1)
    assert float(theirs.z0) > 0.1
    assert ours.kl is not None
    assert float(ours.kl.clamped) == pytest.approx(float(theirs.z0), rel=1e-5)
    assert ours.loss == pytest.approx(float(theirs.loss), rel=1e-6)
    assert relative(grads, theirs.grads) < 1e-5


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("budget", [ONE_PASS, 600])
def test_shared_prefixes_equal_the_witness(tmp_path: Path, architecture: str, budget: int) -> None:
    policy = double(policy_of(tmp_path, architecture))
    rows = ratings_of_few_prompts(tmp_path, policy)
    disturb(policy)
    split = scored(tmp_path, policy, rows)
    ours, grads = step(policy, split, beta=0.2, tokens_per_microbatch=budget)
    apart, apart_grads = step(
        policy, split, beta=0.2, tokens_per_microbatch=budget, share_prefixes=False, continues=False
    )
    theirs = witness(policy, split, 0.2)
    for result, found in ((ours, grads), (apart, apart_grads)):
        assert torch.allclose(result.logps, theirs.policy, rtol=1e-6, atol=0)
        assert result.loss == pytest.approx(float(theirs.loss), rel=1e-6)
        assert relative(found, theirs.grads) < 1e-5


@pytest.mark.parametrize("budget", [ONE_PASS, 300])
def test_apo_zero_is_kto_with_z0_at_zero(tmp_path: Path, budget: int) -> None:
    policy = double(policy_of(tmp_path, "llama"))
    disturb(policy, 0.35)
    split = scored(tmp_path, policy, rows_of(tmp_path, policy))
    ours, grads = step(policy, split, objective="apo_zero_unpaired", tokens_per_microbatch=budget, desirable_weight=1.5)
    policy.lm.set_attn_implementation("eager")
    labels = [row.label for row in split.rows]
    theirs = naive.kto_step(policy.model, [row.pair for row in split.rows], labels, [], 0.1, (1.5, 1.0))
    assert ours.kl is None
    assert ours.loss == pytest.approx(float(theirs.loss), rel=1e-6)
    assert relative(grads, theirs.grads) < 1e-5


@pytest.mark.parametrize("budget", [ONE_PASS, 400])
def test_dpo_equals_the_witness(tmp_path: Path, budget: int) -> None:
    policy = double(policy_of(tmp_path, "qwen3"))
    disturb(policy)
    split = scored(tmp_path, policy, ratings_of_few_prompts(tmp_path, policy), "dpo")
    assert len(split.units) == 9
    ours, grads = step(policy, split, objective="dpo", beta=0.3, tokens_per_microbatch=budget)
    policy.lm.set_attn_implementation("eager")
    chosen, rejected = ([split.rows[unit[side]].pair for unit in split.units] for side in (0, 1))
    theirs = naive.dpo_step(policy.model, chosen, rejected, 0.3)
    assert torch.allclose(ours.logps, theirs.policy, rtol=1e-6, atol=0)
    assert ours.loss == pytest.approx(float(theirs.loss), rel=1e-6)
    assert relative(grads, theirs.grads) < 1e-5
    wins = [float(a) > float(b) for a, b in (theirs.policy - theirs.reference).view(-1, 2)]
    assert ours.accuracy == pytest.approx(sum(wins) / len(wins))


@pytest.mark.parametrize("budget", [ONE_PASS, 300])
def test_sft_equals_the_witness(tmp_path: Path, budget: int) -> None:
    policy = double(policy_of(tmp_path, "llama"))
    disturb(policy)
    split = scored(tmp_path, policy, rows_of(tmp_path, policy), "sft")
    ours, grads = step(policy, split, objective="sft", tokens_per_microbatch=budget)
    policy.lm.set_attn_implementation("eager")
    theirs = naive.sft_step(policy.model, [row.pair for row in split.rows if row.label])
    assert ours.rewards is None
    assert ours.loss == pytest.approx(float(theirs.loss), rel=1e-6)
    assert relative(grads, theirs.grads) < 1e-5


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_float32_stays_close_to_the_witness(tmp_path: Path, architecture: str) -> None:
    policy = policy_of(tmp_path, architecture)
    rows = rows_of(tmp_path, policy)
    disturb(policy)
    split = scored(tmp_path, policy, rows)
    ours, grads = step(policy, split)
    theirs = witness(double(policy), split, 0.1)
    assert ours.loss == pytest.approx(float(theirs.loss), abs=1e-5)
    assert relative(grads, theirs.grads) < 1e-4


@pytest.mark.parametrize("path", ["packed", "padded", "dense"])
@pytest.mark.parametrize("objective", ["kto", "dpo", "sft"])
def test_trap_10_gradient_does_not_depend_on_the_cut(tmp_path: Path, path: Any, objective: Objective) -> None:
    policy = policy_of(tmp_path, "mistral")
    disturb(policy)
    split = scored(tmp_path, policy, ratings_of_few_prompts(tmp_path, policy), objective)
    whole, whole_grads = step(policy, split, objective=objective, tokens_per_microbatch=ONE_PASS)
    policy.path = path
    for budget in (64, 450, 1200, ONE_PASS):
        result, grads = step(policy, split, objective=objective, tokens_per_microbatch=budget)
        assert result.loss == pytest.approx(whole.loss, rel=1e-6)
        assert torch.allclose(result.logps, whole.logps, rtol=1e-5)
        assert relative(grads, whole_grads) < 3e-5


def test_trap_05_z0_is_one_for_the_step_however_it_is_cut(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama")
    disturb(policy)
    split = scored(tmp_path, policy, rows_of(tmp_path, policy, 40))
    whole, _ = step(policy, split, tokens_per_microbatch=ONE_PASS)
    cut, _ = step(policy, split, tokens_per_microbatch=200)
    assert whole.kl is not None
    assert cut.kl is not None
    assert float(cut.kl.raw) == pytest.approx(float(whole.kl.raw), rel=1e-4)
    assert float(cut.kl.standard_error) == pytest.approx(float(whole.kl.standard_error), rel=1e-4)
    assert float(whole.kl.clamped) > 0
    assert cut.loss == pytest.approx(whole.loss, rel=1e-6)  # what the losses saw is the same too
    own, _ = step(policy, split, tokens_per_microbatch=700, kl_scope="microbatch", batch_size=40)
    assert own.kl is not None
    assert float(own.kl.raw) == pytest.approx(float(whole.kl.raw), rel=1e-4)  # what is told is of the whole step
    assert own.loss != pytest.approx(whole.loss, rel=1e-6)  # what the losses saw is not


def test_microbatch_scope_is_a_step_of_its_own_per_pass(tmp_path: Path) -> None:
    policy = double(policy_of(tmp_path, "llama"))
    disturb(policy, 0.15)
    split = scored(tmp_path, policy, rows_of(tmp_path, policy, 40))
    options: dict[str, Any] = {"tokens_per_microbatch": 900, "batch_size": 40}
    cuts = policy.cuts([row.pair for row in split.rows], token_budget=900, min_rows=16)
    assert len(cuts) == 2
    assert min(len(cut) for cut in cuts) >= 16
    ours, grads = step(policy, split, kl_scope="microbatch", **options)
    loss = 0.0
    expected = {name: torch.zeros_like(grad) for name, grad in grads.items()}
    policy.lm.set_attn_implementation("eager")
    for cut in cuts:
        rows = [split.rows[index] for index in cut]
        kl_pairs = [split.kl_pairs[split.kl_places[index]] for index in cut.tolist()]
        labels = [row.label for row in rows]
        part = naive.kto_step(policy.model, [row.pair for row in rows], labels, kl_pairs, 0.1, (1.0, 1.0))
        share = len(rows) / len(split.rows)
        loss += share * float(part.loss)
        expected = {name: expected[name] + part.grads[name] * share for name in grads}
    assert ours.loss == pytest.approx(loss, rel=1e-6)
    assert relative(grads, expected) < 1e-5


@pytest.mark.parametrize("objective", ["kto", "dpo"])
def test_packing_order_and_batches_of_one(tmp_path: Path, objective: Objective) -> None:
    """The order of a step's units is nothing, and steps of one unit add up where z0 does not join them."""
    policy = double(policy_of(tmp_path, "llama"))
    disturb(policy)
    split = scored(tmp_path, policy, ratings_of_few_prompts(tmp_path, policy), objective)
    forth, grads = step(policy, split, objective=objective, tokens_per_microbatch=ONE_PASS)
    count = len(split.units)
    back, back_grads = step(policy, split, range(count)[::-1], objective=objective, tokens_per_microbatch=ONE_PASS)
    assert back.loss == pytest.approx(forth.loss, rel=1e-9)
    assert relative(back_grads, grads) < 1e-6
    if objective == "dpo":
        single = [step(policy, split, [unit], objective=objective)[1] for unit in range(count)]
        assert relative({name: torch.stack([each[name] for each in single]).mean(0) for name in grads}, grads) < 1e-6
    else:
        one, _ = step(policy, split, [3])
        assert one.kl is not None
        assert one.rewards is not None
        own = float(one.rewards[0]) / 0.1
        assert abs(float(one.kl.raw) - own) > 1e-3 * abs(own)  # its partner is another row, not itself


@pytest.mark.parametrize("architecture", FAMILIES)
def test_trap_13_step_zero_is_the_reference(tmp_path: Path, architecture: str) -> None:
    policy = policy_of(tmp_path, architecture)
    split = scored(tmp_path, policy, rows_of(tmp_path, policy))
    for budget in (ONE_PASS, 300):
        result, _ = step(policy, split, desirable_weight=1.5, tokens_per_microbatch=budget)
        mean_weight = sum(1.5 if row.label else 1.0 for row in split.rows) / len(split.rows)
        assert result.loss == pytest.approx(mean_weight / 2, abs=1e-5)
        assert result.kl is not None
        assert float(result.kl.clamped) == pytest.approx(0, abs=1e-4)
        assert result.rewards is not None
        assert result.rewards.abs().max() < 1e-4


def test_trap_13_step_zero_is_the_reference_in_bfloat16_too(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama", precision="bfloat16")
    split = scored(tmp_path, policy, rows_of(tmp_path, policy))
    result, grads = step(policy, split, tokens_per_microbatch=ONE_PASS)
    assert result.rewards is not None
    assert result.rewards.abs().max() < 0.01
    assert result.loss == pytest.approx(0.5, abs=1e-3)
    assert {grad.dtype for grad in grads.values()} == {torch.float32}


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


@pytest.mark.parametrize("budget", [ONE_PASS, 300])
def test_trap_06_no_dropout_in_z0_and_ratios(tmp_path: Path, budget: int) -> None:
    """With dropout in the adapters, loss, rewards and z0 are those without it; only the gradient is noisy."""
    policy = policy_of(tmp_path, "llama", lora=LoraSettings(r=4, alpha=8, dropout=0.5))
    disturb(policy)
    split = scored(tmp_path, policy, rows_of(tmp_path, policy))
    torch.manual_seed(1)
    first, grads = step(policy, split, tokens_per_microbatch=budget)
    torch.manual_seed(2)
    second, other = step(policy, split, tokens_per_microbatch=budget)
    policy.dropout = 0.0
    clean, clean_grads = step(policy, split, tokens_per_microbatch=budget)
    assert first.kl is not None
    assert second.kl is not None
    assert clean.kl is not None
    assert float(first.kl.raw) == float(second.kl.raw) == pytest.approx(float(clean.kl.raw), rel=1e-5)
    assert first.loss == second.loss == pytest.approx(clean.loss, rel=1e-6)
    assert torch.allclose(first.logps, clean.logps)
    assert relative(grads, other) > 1e-2
    mean = {name: torch.zeros_like(grad) for name, grad in grads.items()}
    policy.dropout = 0.5
    for seed in range(60):
        torch.manual_seed(seed)
        _, noisy = step(policy, split, tokens_per_microbatch=budget)
        mean = {name: mean[name] + noisy[name] / 60 for name in mean}
    assert relative(mean, clean_grads) < 0.5 * relative(grads, clean_grads)  # noise around it, not another gradient


def test_trap_14_the_kl_pass_keeps_nothing_for_backward(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama")
    split = scored(tmp_path, policy, rows_of(tmp_path, policy))
    batch = split.batch(range(len(split.units)))
    logps, kl_logps = policy.logps_with_kl(batch.pairs, batch.kl_pairs, batch.kl_rows, token_budget=ONE_PASS)
    assert logps.requires_grad
    assert not kl_logps.requires_grad


@pytest.mark.parametrize(
    ("architecture", "known"), [("llama", True), ("mistral", True), ("qwen3", True), ("gemma2", False)]
)
def test_the_last_layer_computes_what_the_head_reads(tmp_path: Path, architecture: str, *, known: bool) -> None:
    policy = policy_of(tmp_path, architecture)
    disturb(policy)
    rows = ratings_of_few_prompts(tmp_path, policy)
    split = scored(tmp_path, policy, rows)
    assert policy.tail == known
    tokens: list[int] = []
    mlp = policy.lm.model.layers[-1].mlp
    hook = mlp.register_forward_pre_hook(lambda _module, inputs: tokens.append(inputs[0].shape[1]))
    ours, grads = step(policy, split, tokens_per_microbatch=ONE_PASS)
    hook.remove()
    pack = pack_pairs([row.pair for row in rows])
    read = len(set(pack.score_rows.tolist()))
    assert tokens[0] == (read if known else pack.num_tokens)
    policy.tail = False
    whole, whole_grads = step(policy, split, tokens_per_microbatch=ONE_PASS)
    assert torch.allclose(ours.logps, whole.logps, rtol=1e-6)
    assert relative(grads, whole_grads) < 1e-5
