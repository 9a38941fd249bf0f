"""Adapters of every kind: trained exactly, saved so that they load anywhere, and gone on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.alignment import naive, tiny
from worker.alignment.adapters import (
    REFERENCE,
    SETTINGS,
    WEIGHTS,
    check_adapter,
    check_lora,
    reference_identity,
    reference_mode,
)
from worker.alignment.checkpoints import MANIFEST, STATE, Manifest, checkpoint_path, save_checkpoint
from worker.alignment.config import LoraSettings, TrainSpec
from worker.alignment.dataset import Pair, load_split
from worker.alignment.errors import ModelError
from worker.alignment.export import ExportSpec, run_export
from worker.alignment.generate import Sampling, generate
from worker.alignment.policy import Policy, load_policy
from worker.alignment.probe import probe
from worker.alignment.reporters import JsonlReporter
from worker.alignment.scoring import padded_logps
from worker.alignment.trainer import train

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own

KINDS = {
    "plain": LoraSettings(r=4, alpha=8),
    "rslora": LoraSettings(r=4, alpha=8, rslora=True),
    "dora": LoraSettings(r=4, alpha=8, dora=True),
    "custom": LoraSettings(r=4, alpha=8, target_modules=("q_proj", "layers.1.mlp.down_proj")),
    "head": LoraSettings(r=4, alpha=8, target_modules=("v_proj", "lm_head")),
    "embeddings": LoraSettings(r=4, alpha=8, target_modules=("embed_tokens", "o_proj")),
}
UNTIED = "qwen3"


def policy_of(folder: Path, lora: LoraSettings = KINDS["plain"], architecture: str = UNTIED, **changes: Any) -> Policy:
    if not (folder / architecture).exists():
        tiny.save_model(folder / architecture, architecture)
    return load_policy(str(folder / architecture), tiny.config(lora=lora, **changes))


def disturb(policy: Policy, seed: int = 11) -> Policy:
    torch.manual_seed(seed)
    for parameter in policy.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return policy


def pairs_of(folder: Path, policy: Policy) -> list[Pair]:
    if not (folder / "snapshot").exists():
        tiny.save_snapshot(folder / "snapshot")
    rows = load_split(folder / "snapshot" / "dev.jsonl", policy.tokenizer, max_length=128).rows
    return [row.pair for row in rows[:6]]


def save(policy: Policy, folder: Path) -> Path:
    """A checkpoint as a run writes it, with peft's two files left of it."""
    manifest = Manifest(run_id=1, step=1, total_steps=1, config={}, snapshot_hash="", pins={}, progress={})
    save_checkpoint(folder, manifest, policy.model, torch.optim.AdamW(policy.parameters()))
    for name in (MANIFEST, STATE):
        (folder / name).unlink()
    return folder


def scores(model: Any, pairs: list[Pair]) -> torch.Tensor:
    """By plain transformers and peft, row by row."""
    with torch.no_grad():
        return torch.cat([padded_logps(model, None, [pair], torch.device("cpu")) for pair in pairs])


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_loads_in_plain_peft_and_merges(tmp_path: Path, kind: str) -> None:
    policy = disturb(policy_of(tmp_path, KINDS[kind]))
    pairs = pairs_of(tmp_path, policy)
    folder = save(policy, tmp_path / "checkpoint")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / UNTIED)
    before = scores(base, pairs)
    loaded = scores(PeftModel.from_pretrained(base, folder).eval(), pairs)
    with torch.no_grad():
        probe(policy, pairs)
        ours = policy.logps(pairs)
    assert torch.allclose(ours, loaded, rtol=1e-5, atol=1e-3)
    assert (ours - before).abs().max() > 0.1
    report = run_export(
        ExportSpec(
            kind="merged",
            base_model=str(tmp_path / UNTIED),
            adapter_dir=str(folder),
            out_dir=str(tmp_path / "merged"),
            probe_paths=(str(tmp_path / "snapshot" / "dev.jsonl"),),
        )
    )
    assert report is not None
    assert report.accepted
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.allclose(scores(merged, pairs), ours, rtol=1e-4, atol=1e-3)


def test_the_settings_reach_every_layer(tmp_path: Path) -> None:
    policies = {kind: policy_of(tmp_path, replace(lora, dropout=0.25)) for kind, lora in KINDS.items()}
    layers = {kind: policy.lm.model.layers[1].mlp.down_proj for kind, policy in policies.items()}
    assert layers["plain"].scaling == {"default": 8 / 4}
    assert layers["rslora"].scaling == {"default": 8 / 4**0.5}
    assert layers["plain"].lora_dropout["default"].p == 0.25
    assert {kind: _adapted(policy) for kind, policy in policies.items()} == {
        "plain": 14,  # seven linear layers twice, and not the head
        "rslora": 14,
        "dora": 14,
        "custom": 3,
        "head": 3,
        "embeddings": 3,
    }
    magnitudes = [name for name, _ in policies["dora"].model.named_parameters() if "lora_magnitude_vector" in name]
    assert len(magnitudes) == 14
    fresh = policies["dora"]
    pairs = pairs_of(tmp_path, fresh)
    with torch.no_grad():
        ours = fresh.logps(pairs)
        with fresh.as_reference():
            assert torch.allclose(fresh.logps(pairs), ours, rtol=1e-6, atol=1e-4)  # B = 0: nothing is changed yet


def _adapted(policy: Policy) -> int:
    return sum(hasattr(module, "lora_A") for module in policy.model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gets_the_gradient_of_the_naive_witness(tmp_path: Path, kind: str) -> None:
    policy = disturb(policy_of(tmp_path, KINDS[kind]))
    policy.model.double()
    policy.dtype = torch.float64
    pairs = pairs_of(tmp_path, policy)
    notice = probe(policy, pairs)
    if kind == "head":
        assert notice == (
            "The head is not one frozen linear layer. Using the model's own sdpa attention, padded, dense head."
        )
    else:
        assert notice is None
    weights = torch.linspace(-1, 1, len(pairs), dtype=torch.float64)
    (policy.logps(pairs) * weights).sum().backward()  # type: ignore[no-untyped-call]
    ours = {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
    assert len(ours) == len(policy.parameters())
    policy.model.zero_grad()
    witness = torch.stack([naive.of_pair(policy.model, pair) for pair in pairs])
    (witness * weights).sum().backward()  # type: ignore[no-untyped-call]
    theirs = {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    assert any("lm_head" in name for name in ours) == (kind == "head")
    error = sum(float((ours[name] - theirs[name]).square().sum()) for name in ours)
    size = sum(float(gradient.square().sum()) for gradient in theirs.values())
    assert (error / size) ** 0.5 < 1e-6


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("q_prj",), "no linear layer is named q_prj; nearest: q_proj"),
        (("q_proj", "gate"), "no linear layer is named gate; nearest: gate_proj"),
        (("norm",), "no linear layer is named norm; nearest:"),
        (("all-linear", "lm_head"), "no linear layer is named all-linear"),
    ],
)
def test_a_target_that_matches_nothing_is_named(tmp_path: Path, targets: tuple[str, ...], words: str) -> None:
    lora = LoraSettings(target_modules=targets)
    with pytest.raises(ModelError, match=words) as caught:
        policy_of(tmp_path, lora)
    assert "\n" not in str(caught.value)
    assert check_lora(lora, AutoConfig.from_pretrained(tmp_path / UNTIED)) == str(caught.value)


def test_settings_that_fit_pass_the_cheap_check(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model", UNTIED)
    model_config = AutoConfig.from_pretrained(tmp_path / "model")
    assert [check_lora(lora, model_config) for lora in KINDS.values()] == [None] * len(KINDS)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_head_tied_to_the_embeddings_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(ModelError, match="shares its weights with the input embeddings"):
        policy_of(tmp_path, LoraSettings(target_modules=("q_proj", target)), "llama")


@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_a_bfloat16_base_trains_float32_adapters(tmp_path: Path, kind: str) -> None:
    start = save(disturb(policy_of(tmp_path, KINDS[kind])), tmp_path / "start")
    policy = policy_of(tmp_path, KINDS[kind], precision="bfloat16", init_adapter=str(start), reference="adapter")
    assert {p.dtype for n, p in policy.model.named_parameters() if "lora_" not in n} == {torch.bfloat16}
    optimizer = torch.optim.AdamW(policy.parameters())
    logps = policy.logps(pairs_of(tmp_path, policy))
    logps.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert logps.dtype == torch.float32
    for parameter in policy.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        state = optimizer.state[parameter]
        assert {state[name].dtype for name in ("exp_avg", "exp_avg_sq")} == {torch.float32}
    assert {p.dtype for n, p in policy.model.named_parameters() if f".{REFERENCE}" in n} == {torch.float32}


# Going on from an adapter --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "rslora", "dora", "custom"])
@pytest.mark.parametrize("reference", ["base", "adapter"])
def test_trap_18_going_on_starts_where_the_adapter_ended(tmp_path: Path, kind: str, reference: str) -> None:
    before = disturb(policy_of(tmp_path, KINDS[kind]))
    pairs = pairs_of(tmp_path, before)
    start = save(before, tmp_path / "start")
    policy = policy_of(
        tmp_path, LoraSettings(r=2, alpha=2), init_adapter=str(start), reference=reference, seed=5
    )  # the folder's rank, alpha and targets count
    with torch.no_grad():
        ended = before.logps(pairs)
        with before.as_reference():
            base = before.logps(pairs)
        assert torch.equal(policy.logps(pairs), ended)
    assert [p.shape for p in policy.parameters()] == [p.shape for p in before.parameters()]
    disturb(policy, seed=3)
    expected = ended if reference == "adapter" else base
    with policy.as_reference():
        assert torch.equal(policy.logps(pairs), expected)
    assert (policy.logps(pairs) - expected).abs().max() > 0.1
    policy.logps(pairs).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in policy.parameters())
    assert [p.shape for p in policy.parameters()] == [p.shape for p in before.parameters()]

    again = save(policy, tmp_path / "again")
    assert load_file(again / WEIGHTS).keys() == load_file(start / WEIGHTS).keys()
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / UNTIED), again).eval()
    assert torch.allclose(scores(loaded, pairs), policy.logps(pairs), rtol=1e-5, atol=1e-3)


def test_an_error_inside_the_reference_leaves_the_policy_in_place(tmp_path: Path) -> None:
    start = save(disturb(policy_of(tmp_path)), tmp_path / "start")
    policy = policy_of(tmp_path, init_adapter=str(start), reference="adapter")
    trained = [id(parameter) for parameter in policy.parameters()]
    with pytest.raises(KeyError), reference_mode(policy.model), reference_mode(policy.model):
        raise KeyError
    assert [id(parameter) for parameter in policy.parameters()] == trained
    assert policy.model.base_model.active_adapters == ["default"]


def test_samples_of_the_reference_are_the_adapters(tmp_path: Path) -> None:
    before = disturb(policy_of(tmp_path))
    start = save(before, tmp_path / "start")
    policy = disturb(policy_of(tmp_path, init_adapter=str(start), reference="adapter"), seed=3)
    prompts, sampling = [[5, 6, 7, 8], [9, 10]], Sampling(max_new_tokens=12, temperature=0)

    def texts(model: Any, **how: Any) -> list[str]:
        return [
            sample.text for samples in generate(model, policy.tokenizer, prompts, sampling, **how) for sample in samples
        ]

    assert texts(policy.model, use_adapter=False) == texts(before.model)
    assert texts(policy.model) != texts(before.model)


def test_the_identity_of_the_reference_follows_the_files(tmp_path: Path) -> None:
    start = save(disturb(policy_of(tmp_path)), tmp_path / "start")
    config = tiny.config(init_adapter=str(start), reference="adapter")
    one = reference_identity(config)
    assert one.startswith("adapter:")
    assert len(one) == len("adapter:") + 64
    settings = json.loads((start / SETTINGS).read_text())
    (start / SETTINGS).write_text(json.dumps(settings | {"lora_alpha": 3}))
    two = reference_identity(config)
    save(disturb(policy_of(tmp_path), seed=4), start)
    assert len({one, two, reference_identity(config)}) == 3
    assert reference_identity(replace(config, reference="base")) == reference_identity(tiny.config()) == "base"
    assert reference_identity(tiny.config(quantization="4bit")) == "base in 4bit"


def run(spec: TrainSpec, should_stop: Callable[[], bool] = lambda: False) -> list[dict[str, Any]]:
    reporter = JsonlReporter(spec.events_path)
    try:
        train(spec, reporter, should_stop=should_stop)
    finally:
        reporter.close()
    return tiny.events(Path(spec.attempt_dir))


def losses(events: list[dict[str, Any]]) -> list[float]:
    return [event["data"]["loss"] for event in events if event["kind"] == "metrics"]


def num_computed(events: list[dict[str, Any]]) -> int:
    notices = (event["data"]["detail"] for event in events if event["kind"] == "notice")
    return next(int(detail["computed"]) for detail in notices if "computed" in detail)


def test_a_run_that_goes_on_stops_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")
    before = load_policy(str(tmp_path / "model"), tiny.config())
    start = save(disturb(before), tmp_path / "start")
    settings: dict[str, Any] = {
        "init_adapter": str(start),
        "reference": "adapter",
        "desirable_weight": 1.0,
        "undesirable_weight": 1.0,
        "lora": LoraSettings(dropout=0.1),
    }
    whole = tiny.spec(tmp_path, **settings)
    told = run(whole)
    assert losses(told)[0] == pytest.approx(0.5, abs=1e-5)  # the policy starts as its reference
    stopped = tiny.spec(tmp_path, attempt=2, **settings)
    first = run(stopped, should_stop=lambda: len(losses(tiny.events(Path(stopped.attempt_dir)))) >= 4)
    assert losses(first) == losses(told)[:4]
    assert num_computed(first) == 0
    resumed = tiny.spec(tmp_path, attempt=3, resume_from=checkpoint_path(Path(stopped.attempt_dir), 4), **settings)
    assert losses(run(resumed)) == losses(told)[4:]
    one, two = (load_file(checkpoint_path(Path(s.attempt_dir), 6) / WEIGHTS) for s in (whole, resumed))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)

    to_base = tiny.spec(tmp_path, attempt=4, **(settings | {"reference": "base", "max_steps": 1}))
    told = run(to_base)
    assert num_computed(told) > 0  # another reference, other numbers in the cache
    assert abs(losses(told)[0] - 0.5) > 1e-3


# What cannot be gone on from -----------------------------------------------------------------------------------------


def change_settings(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        settings = json.loads((folder / SETTINGS).read_text())
        (folder / SETTINGS).write_text(json.dumps(settings | changes))

    return change


def cut_short(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / SETTINGS).unlink(), "it has no adapter_config.json"),
        (lambda folder: (folder / WEIGHTS).unlink(), "it has no adapter_model.safetensors"),
        (shutil.rmtree, "is not an adapter's folder"),
        (lambda folder: (folder / SETTINGS).write_text("{"), "cannot be read"),
        (cut_short, "adapter_model.safetensors cannot be read"),
        (change_settings(peft_type="IA3"), "only LoRA can be trained further"),
        (change_settings(modules_to_save=["lm_head"]), "uses modules_to_save"),
        (change_settings(bias="all"), "uses bias"),
        (change_settings(init_lora_weights="pissa_niter_4"), "uses init_lora_weights"),
        (change_settings(r=8), "is [4, 48] and would have to be [8, 48]"),
        (change_settings(target_modules=["q_proj"]), "has no place in this one"),
        (change_settings(target_modules=["wq", "wk"]), "wk"),
    ],
)
def test_a_folder_that_is_no_plain_adapter_is_refused(
    tmp_path: Path, damage: Callable[[Path], Any], words: str
) -> None:
    start = save(policy_of(tmp_path), tmp_path / "start")
    damage(start)
    with pytest.raises(ModelError) as caught:
        policy_of(tmp_path, init_adapter=str(start), reference="base")
    message = str(caught.value)
    assert words in message
    assert message.startswith("init_adapter: ")
    assert "\n" not in message
    assert check_adapter(start, AutoConfig.from_pretrained(tmp_path / UNTIED)) == message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 64}, "is [32, 4] and would have to be [64, 4]"),
        ({"num_hidden_layers": 3}, "it lacks base_model.model.model.layers.2."),
        ({"num_hidden_layers": 1}, "has no place in this one"),
        ({"num_key_value_heads": 4}, "k_proj.lora_B.weight is [16, 4] and would have to be [32, 4]"),
    ],
)
def test_an_adapter_for_another_base_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    start = save(policy_of(tmp_path, LoraSettings(r=4, target_modules=("k_proj", "down_proj"))), tmp_path / "start")
    model_config = AutoConfig.from_pretrained(tmp_path / UNTIED)
    assert check_adapter(start, model_config) is None
    other = tiny.CONFIGS[UNTIED](model_config.vocab_size).to_dict()
    other = type(model_config)(**(other | change | {"layer_types": None}))
    sentence = check_adapter(start, other)
    assert sentence is not None
    assert "is of another base model" in sentence
    assert words in sentence
    AutoModelForCausalLM.from_config(other).save_pretrained(tmp_path / "other")
    tiny.tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError) as caught:
        load_policy(str(tmp_path / "other"), tiny.config(init_adapter=str(start), reference="base"))
    assert str(caught.value) == sentence


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_passes_the_cheap_check(tmp_path: Path, kind: str) -> None:
    start = save(policy_of(tmp_path, KINDS[kind]), tmp_path / "start")
    assert check_adapter(start, AutoConfig.from_pretrained(tmp_path / UNTIED)) is None
