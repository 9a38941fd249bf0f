"""Backends of packed attention: one equivalence for all, and how the kernels of a GPU are called.

Where there is no GPU, stand-ins with the kernels' own signatures and documented semantics take their place.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from tests.alignment import naive
from tests.alignment.steps import policy_of
from worker.alignment import policy as policies
from worker.alignment.attention import Backend, Layout, Memory, choose_backend, packed_attention
from worker.alignment.dataset import Pair
from worker.alignment.packing import Pack, pack_continuations, pack_pairs
from worker.alignment.policy import Policy
from worker.alignment.probe import probe
from worker.alignment.scoring import tolerance
from worker.alignment.varlen import aligned_to_last_key

REAL_VARLEN = varlen.varlen_attn
CPU = torch.device("cpu")
Kernel = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def _aligned_to_last_key_is_found_out_anew() -> Iterator[None]:
    aligned_to_last_key.cache_clear()
    yield
    aligned_to_last_key.cache_clear()


def reference_kernel(
    q: Tensor, k: Tensor, v: Tensor, ends: tuple[Tensor, Tensor], scale: float, window: int, softcap: float = 0.0,
    *, to_last_key: bool = True,
) -> Tensor:  # fmt: skip
    """[T, heads, D]; key j is seen from i where 0 <= i - j <= window (window -1: all of the past)."""
    assert [end.dtype for end in ends] == [torch.int32, torch.int32]
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    out = []
    for (first, last), (begin, end) in zip(pairwise(ends[0].tolist()), pairwise(ends[1].tolist()), strict=True):
        ahead = end - begin - (last - first) if to_last_key else 0
        distance = torch.arange(last - first)[:, None] + ahead - torch.arange(end - begin)[None, :]
        seen = (distance >= 0) & ((distance <= window) | (window < 0))
        scores = torch.einsum("qhd,khd->hqk", q[first:last], k[begin:end]) * scale
        scores = softcap * torch.tanh(scores / softcap) if softcap else scores
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out.append(torch.einsum("hqk,khd->qhd", weights, v[begin:end]))
    return torch.cat(out)


def assert_lengths(ends: tuple[Tensor, Tensor], longest: tuple[int, int]) -> None:
    assert longest == tuple(int(end.diff().max()) for end in ends)


def varlen_2_13(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    assert window_size[1] == 0, "not causal"
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert scale is not None
    assert_lengths((cu_seq_q, cu_seq_k), (max_q, max_k))
    return reference_kernel(query, key, value, (cu_seq_q, cu_seq_k), scale, window_size[0])


def varlen_with_windows(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> Tensor:  # fmt: skip
    assert query.shape[1] == key.shape[1], "this version has no grouped queries"
    return varlen_2_13(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size
    )  # fmt: skip


def varlen_with_scale(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    is_causal: bool = False, scale: float | None = None,
) -> Tensor:  # fmt: skip
    assert is_causal
    return varlen_with_windows(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=(-1, 0)
    )  # fmt: skip


def varlen_of_the_first_versions(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    is_causal: bool = False,
) -> Tensor:  # fmt: skip
    scale = query.shape[-1] ** -0.5
    return varlen_with_scale(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=is_causal, scale=scale)


def varlen_aligned_to_the_first_key(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert scale is not None
    assert_lengths((cu_seq_q, cu_seq_k), (max_q, max_k))
    ends = cu_seq_q, cu_seq_k
    return reference_kernel(query, key, value, ends, scale, window_size[0], to_last_key=False)


def flash_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0,
) -> Tensor:  # fmt: skip
    assert causal
    assert not dropout_p
    assert softmax_scale is not None
    assert_lengths((cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k))
    return reference_kernel(q, k, v, (cu_seqlens_q, cu_seqlens_k), softmax_scale, window_size[0], softcap)


def install(monkeypatch: pytest.MonkeyPatch, backend: Backend, kernel: Kernel) -> list[int]:
    """Put a stand-in in the kernel's place; the list returned counts its calls, by their number of sequences."""
    calls: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Tensor:
        calls.append(len(arguments[3]) - 1)
        return kernel(*arguments, **options)

    counted.__signature__ = inspect.signature(kernel)  # type: ignore[attr-defined]
    if backend == "varlen":
        monkeypatch.setattr(varlen, "varlen_attn", counted)
    else:
        module = ModuleType("flash_attn")
        module.flash_attn_varlen_func = counted  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "flash_attn", module)
    return calls


def some_pairs(seed: int = 0, vocab_size: int = 300) -> list[Pair]:
    """Two ratings of one prompt, two prompts under one system prompt, and one of its own, longer than every window."""
    chance = np.random.default_rng(seed)

    def tokens(count: int) -> Any:
        return chance.integers(3, vocab_size, count)

    system, alone = tokens(20), tokens(9)
    first, second = np.concatenate([system, tokens(12)]), np.concatenate([system, tokens(3)])
    return [Pair(first, tokens(15)), Pair(second, tokens(1)), Pair(first, tokens(8)), Pair(alone, tokens(40))]


def of_other_prompts(pairs: list[Pair]) -> list[Pair]:
    return [Pair(x.prompt_ids, y.completion_ids) for x, y in zip(pairs, [*pairs[1:], pairs[0]], strict=True)]


def assert_exact(policy: Policy, pairs: list[Pair]) -> None:
    """Rows, mismatched pairs from the rows' keys, and gradients, against one-row runs by the model's eager attention."""
    others = of_other_prompts(pairs)
    signs = torch.tensor([1.0, -1.0, 0.5, 2.0])
    policy.lm.set_attn_implementation("eager")
    expected = torch.stack([naive.of_pair(policy.model, pair) for pair in pairs])
    with torch.no_grad():
        expected_kl = torch.stack([naive.of_pair(policy.model, pair) for pair in others])
    grads = torch.autograd.grad((expected * signs).sum(), policy.parameters())
    found, found_kl = policy.logps_with_kl(pairs, others, range(len(pairs)), token_budget=10_000)
    allowed = tolerance(policy.dtype, expected, torch.tensor([len(pair.completion_ids) for pair in pairs]))
    assert ((found - expected).abs() <= allowed).all()
    assert ((found_kl - expected_kl).abs() <= 1e-4 + 1e-5 * expected_kl.abs()).all()
    assert found_kl.requires_grad is False
    found_grads = torch.autograd.grad((found * signs).sum(), policy.parameters())
    for grad, right in zip(found_grads, grads, strict=True):
        assert (grad - right).norm() <= 1e-4 * right.norm() + 1e-6


def prepared(folder: Path, architecture: str, backend: Backend) -> Policy:
    policy = policy_of(folder, architecture)
    torch.manual_seed(3)
    for parameter in policy.parameters():  # fresh adapters have B = 0
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    policy.backend = backend
    return policy


# Whole models through stand-in kernels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [varlen_2_13, varlen_with_windows])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3"])
def test_varlen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, kernel: Kernel) -> None:
    calls = install(monkeypatch, "varlen", kernel)
    policy = prepared(tmp_path, architecture, "varlen")
    assert probe(policy, some_pairs()) is None
    assert policy.backend == "varlen"
    calls.clear()
    assert_exact(policy, some_pairs())
    assert len(calls) == 4  # two layers, the rows and the mismatched pairs


@pytest.mark.parametrize("kernel", [varlen_with_scale, varlen_of_the_first_versions])
def test_varlen_of_earlier_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> None:
    calls = install(monkeypatch, "varlen", kernel)
    assert_exact(prepared(tmp_path, "qwen3", "varlen"), some_pairs())
    assert len(calls) == 4


def test_varlen_calls_fit_the_installed_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = inspect.signature(REAL_VARLEN)

    def bound(*arguments: Any, **options: Any) -> Tensor:
        signature.bind(*arguments, **options)
        return varlen_2_13(*arguments, **options)

    install(monkeypatch, "varlen", bound)
    varlen.varlen_attn.__signature__ = signature  # type: ignore[attr-defined]
    if "window_size" not in signature.parameters:
        pytest.skip("this version of PyTorch has varlen attention without windows")
    assert_exact(prepared(tmp_path, "mistral", "varlen"), some_pairs())


def test_a_window_that_varlen_cannot_do_falls_back_to_sdpa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "varlen", varlen_of_the_first_versions)
    policy = prepared(tmp_path, "mistral", "varlen")
    notice = probe(policy, some_pairs())
    assert notice is not None
    assert "no sliding window in varlen attention" in notice
    assert notice.endswith("Using SDPA per sequence, packed, shared prefixes, KL pass on cached prompts.")
    assert (policy.path, policy.backend) == ("packed", "sdpa")


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "gemma3"])
def test_flash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    calls = install(monkeypatch, "flash", flash_varlen)
    assert_exact(prepared(tmp_path, architecture, "flash"), some_pairs())
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("architecture", "backend", "kernel", "by_kernel"),
    [
        ("gemma2", "varlen", varlen_2_13, 0),  # a soft-cap
        ("gpt_oss", "varlen", varlen_2_13, 0),  # sinks
        ("gpt_oss", "flash", flash_varlen, 0),
        ("llama4", "varlen", varlen_2_13, 2),  # chunks in one of two layers
        ("llama4", "flash", flash_varlen, 2),
    ],
)
def test_layers_that_a_kernel_cannot_do_go_another_way(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    backend: Backend,
    kernel: Kernel,
    by_kernel: int,
) -> None:
    calls = install(monkeypatch, backend, kernel)
    assert_exact(prepared(tmp_path, architecture, backend), some_pairs())
    assert len(calls) == by_kernel


def test_a_kernel_aligned_to_the_first_key_shares_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "varlen", varlen_aligned_to_the_first_key)
    monkeypatch.setattr(policies, "choose_backend", lambda *_: "varlen")
    policy = policy_of(tmp_path, "llama")
    assert (policy.backend, policy.share, policy.continues) == ("varlen", False, False)
    notice = probe(policy, some_pairs())
    assert notice == (
        "PyTorch varlen attention, packed of the version installed cannot go on from a prefix, so nothing is shared. "
        "Using PyTorch varlen attention, packed."
    )
    assert_exact(policy, some_pairs())


def test_alignment_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "varlen", varlen_2_13)
    assert aligned_to_last_key("varlen", CPU, torch.float32)
    install(monkeypatch, "flash", flash_varlen)
    assert aligned_to_last_key("flash", CPU, torch.float32)
    aligned_to_last_key.cache_clear()
    install(monkeypatch, "varlen", varlen_aligned_to_the_first_key)
    assert not aligned_to_last_key("varlen", CPU, torch.float32)


# The attention function alone, on any device -----------------------------------------------------------------------------

LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"layer_types": ["sliding_attention"], "sliding_window": 16},
    "chunks": {"layer_types": ["chunked_attention"], "attention_chunk_size": 24},
}


class Layer(torch.nn.Module):
    """What an attention module shows of itself."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.config = SimpleNamespace(**LAYERS[kind])
        self.layer_idx = 0


def states(pack: Pack, device: torch.device, dtype: torch.dtype, *, backward: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of four heads, keys and values of two, [1, heads, T, 64]."""
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(1, heads, pack.num_tokens, 64, generator=generator) for heads in (4, 2, 2))
    return tuple(x.to(device, dtype).requires_grad_(backward) for x in (q, k, v))  # type: ignore[return-value]


def run(
    backend: Backend,
    kind: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    backward: bool,
    softcap: float | None = None,
) -> list[Tensor]:
    """Rows that share prefixes, mismatched pairs on their keys, and the gradients of the first, all in float32."""
    layer, memory = Layer(kind), Memory()
    pack = pack_pairs(some_pairs())
    more = pack_continuations(of_other_prompts(some_pairs()), pack.prompt_paths, pack.num_tokens)
    assert any(strand.context for strand in pack.strands)
    q, k, v = states(pack, device, dtype, backward=backward)
    layout = Layout(pack, backend, device, capture=memory)
    out, _ = packed_attention(layer, q, k, v, None, kto_layout=layout, scaling=0.2, softcap=softcap)
    grads = torch.autograd.grad(out.float().square().sum(), (q, k, v)) if backward else ()
    with torch.no_grad():
        layout = Layout(more, backend, device, memory=memory)
        q, k, v = (x.detach()[:, :, : more.num_tokens] for x in (q, k, v))
        kl, _ = packed_attention(layer, q, k, v, None, kto_layout=layout, scaling=0.2, softcap=softcap)
    return [x.detach().float() for x in (out, kl, *grads)]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_flex_equals_sdpa_in_the_forward(kind: str, softcap: float | None) -> None:
    right = run("sdpa", kind, CPU, torch.float32, backward=False, softcap=softcap)
    found = run("flex", kind, CPU, torch.float32, backward=False, softcap=softcap)
    for a, b in zip(found, right, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_kinds_of_layers_differ() -> None:
    """The comparisons above would pass if a window and a chunk were not looked at."""
    plain, window, chunks = (run("sdpa", kind, CPU, torch.float32, backward=False)[0] for kind in LAYERS)
    assert (plain - window).abs().max() > 0.1
    assert (plain - chunks).abs().max() > 0.1
    assert (window - chunks).abs().max() > 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("backend", ["flash", "varlen", "flex"])
def test_kernels_on_cuda(backend: Backend, kind: str) -> None:
    if backend == "flash":
        pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    cuda = torch.device("cuda")
    right = run("sdpa", kind, CPU, torch.float32, backward=True)
    found = run(backend, kind, cuda, torch.bfloat16, backward=True)
    for a, b in zip(found, right, strict=True):
        assert (a.cpu() - b).norm() < 0.02 * b.norm()
    if backend != "flex":
        assert aligned_to_last_key(backend, cuda, torch.bfloat16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_takes_a_kernel_by_itself() -> None:
    assert choose_backend("auto", torch.device("cuda"), torch.bfloat16) in ("flash", "varlen")
    assert choose_backend("auto", torch.device("cuda"), torch.float32) == "sdpa"


# Choice ------------------------------------------------------------------------------------------------------------------


def test_flex_is_refused_where_it_cannot_train() -> None:
    with pytest.raises(ValueError, match="attention: flex needs a CUDA device to train; use auto"):
        choose_backend("flex", CPU, torch.float32)
    assert choose_backend("flex", CPU, torch.float32, gradients=False) == "flex"
    assert choose_backend("flex", torch.device("cuda"), torch.float32) == "flex"


@pytest.mark.parametrize(
    ("backend", "share", "continues", "words"),
    [
        ("sdpa", True, True, "SDPA per sequence, packed, shared prefixes, KL pass on cached prompts"),
        ("varlen", False, True, "PyTorch varlen attention, packed, KL pass on cached prompts"),
        ("flash", True, False, "flash-attn, packed, shared prefixes"),
        ("flex", False, False, "FlexAttention, packed"),
    ],
)
def test_words_of_packed_ways(tmp_path: Path, backend: Backend, share: bool, continues: bool, words: str) -> None:
    policy = policy_of(tmp_path, "llama")
    policy.backend, policy.share, policy.continues = backend, share, continues
    assert policy.attention_words == words
    policy.path = "padded"
    assert policy.attention_words == "the model's own sdpa attention, padded"
    policy.path = "dense"
    assert policy.attention_words == "the model's own sdpa attention, padded, dense head"


def test_bfloat16_trains_float32_adapters(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "llama", precision="bfloat16")
    assert probe(policy, some_pairs()) is None
    logps = policy.logps(some_pairs())
    assert logps.dtype == torch.float32
    logps.sum().backward()  # type: ignore[no-untyped-call]
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in policy.parameters())
