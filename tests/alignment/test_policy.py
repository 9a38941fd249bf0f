"""How a policy settles the way it computes log-probs, and that generation is not touched by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.alignment import naive
from tests.alignment.steps import policy_of, rows_of, scored, step
from worker.alignment.attention import choose_backend
from worker.alignment.config import LoraSettings
from worker.alignment.dataset import Pair
from worker.alignment.probe import probe


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


def test_probe_sees_a_leak_where_every_row_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(tmp_path, "lfm2")
    pairs = [row.pair for row in rows_of(tmp_path, policy)]
    monkeypatch.setattr("worker.alignment.probe.MAX_PROBE_TOKENS", 20)
    assert min(len(pair.prompt_ids) + len(pair.completion_ids) for pair in pairs) > 20
    assert probe(policy, pairs[:4]) is not None
    assert policy.path == "padded"


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


def test_logps_of_one_token_completion(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama")
    pair = rows_of(tmp_path, policy)[0].pair
    short = Pair(pair.prompt_ids, pair.completion_ids[:1])
    expected = naive.of_pair(policy.model, short).detach()
    assert float(policy.logps([short, pair]).detach()[0]) == pytest.approx(float(expected), rel=1e-5)
