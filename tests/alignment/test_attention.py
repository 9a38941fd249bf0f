"""How the GPU backends are called: stand-in kernels that follow the documented semantics, in the place of CUDA's."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from tests.alignment import naive, tiny
from worker.alignment.dataset import load_split
from worker.alignment.policy import Policy, load_policy, probe


def reference_kernel(
    q: Tensor, k: Tensor, v: Tensor, offsets: list[int], scale: float, window: int, softcap: float = 0.0
) -> Tensor:
    """[T, heads, D]; key j is seen from i where 0 <= i - j <= window (window -1: all of the past)."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    out = torch.zeros_like(q)
    for start, end in pairwise(offsets):
        places = torch.arange(end - start)
        distance = places[:, None] - places[None, :]
        seen = (distance >= 0) & ((distance <= window) | (window < 0))
        scores = torch.einsum("qhd,khd->hqk", q[start:end], k[start:end]) * scale
        scores = softcap * torch.tanh(scores / softcap) if softcap else scores
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out[start:end] = torch.einsum("hqk,khd->qhd", weights, v[start:end])
    return out


def new_varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    assert window_size[1] == 0, "not causal"
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert cu_seq_q.dtype == torch.int32
    assert max_q == max_k == int(cu_seq_q.diff().max())
    return reference_kernel(query, key, value, cu_seq_q.tolist(), scale or query.shape[-1] ** -0.5, window_size[0])


def old_varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    is_causal: bool = False,
) -> Tensor:  # fmt: skip
    assert is_causal
    assert query.shape[1] == key.shape[1], "this version has no grouped queries"
    return reference_kernel(query, key, value, cu_seq_q.tolist(), query.shape[-1] ** -0.5, -1)


def flash_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *,
    softmax_scale: float, causal: bool, window_size: tuple[int, int], softcap: float,
) -> Tensor:  # fmt: skip
    assert causal
    return reference_kernel(q, k, v, cu_q.tolist(), softmax_scale, window_size[0], softcap)


def prepared(folder: Path, architecture: str, backend: Any) -> tuple[Policy, list[Any]]:
    tiny.save_model(folder / "model", architecture)
    policy = load_policy(str(folder / "model"), tiny.config())
    policy.backend = backend
    snapshot = tiny.save_snapshot(folder / "data", train=5)
    return policy, [row.pair for row in load_split(snapshot / "train.jsonl", policy.tokenizer, max_length=128).rows]


def assert_exact(policy: Policy, pairs: list[Any]) -> None:
    backend = policy.backend
    assert probe(policy, pairs) is None
    assert (policy.path, policy.backend) == ("packed", backend)
    with torch.no_grad():
        expected = torch.stack([naive.of_pair(policy.model, pair) for pair in pairs])
        assert torch.allclose(policy.logps(pairs).double(), expected, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2"])
def test_varlen_with_scale_window_and_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", new_varlen)
    assert_exact(*prepared(tmp_path, architecture, "varlen"))  # gemma2's soft-cap takes the written-out attention


def test_varlen_of_the_first_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", old_varlen)
    assert_exact(*prepared(tmp_path, "qwen3", "varlen"))


def test_a_window_that_varlen_cannot_do_falls_back_to_sdpa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", old_varlen)
    policy, pairs = prepared(tmp_path, "mistral", "varlen")
    notice = probe(policy, pairs)
    assert notice is not None
    assert notice.endswith("Using SDPA per sequence, packed.")
    assert (policy.path, policy.backend) == ("packed", "sdpa")


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "gemma3"])
def test_flash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_varlen  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    assert_exact(*prepared(tmp_path, architecture, "flash"))


def test_bfloat16_trains_float32_adapters(tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "model")
    policy = load_policy(str(tmp_path / "model"), tiny.config(precision="bfloat16"))
    snapshot = tiny.save_snapshot(tmp_path / "data", train=5)
    pairs = [row.pair for row in load_split(snapshot / "train.jsonl", policy.tokenizer, max_length=128).rows]
    assert probe(policy, pairs) is None
    logps = policy.logps(pairs)
    assert logps.dtype == torch.float32
    logps.sum().backward()  # type: ignore[no-untyped-call]
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in policy.parameters())
