"""The training benchmarks' own arithmetic, and their sides on a model small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.training_gpu import compare
from bench.training_gpu_sides import Size
from bench.training_memory import peak_bytes
from bench.training_model import Batch, Ours, Shape, bench_config, random_batches, random_llama, twin
from bench.training_products import Bare, needed_flops, products_of
from worker.alignment.dataset import Pair

TINY = Shape(vocab=60, hidden=32, layers=2, heads=4, kv_heads=2, intermediate=48)


def batch_of(*lengths: tuple[int, int]) -> Batch:
    pairs = [Pair(np.arange(3, 3 + x), np.arange(3, 3 + y)) for x, y in lengths]
    return Batch(
        pairs,
        [True] * len(pairs),
        [Pair(p.prompt_ids, q.completion_ids) for p, q in zip(pairs, pairs[::-1], strict=True)],
    )


def test_the_needed_work_is_what_a_hand_counts() -> None:
    """Rows (5, 4) and (3, 6): 16 positions fed, 10 scored; mismatched completions feed 8 and score 8 positions more."""
    batch = batch_of((5, 4), (3, 6))
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48
    assert needed_flops(batch, TINY) == 4 * 2 * layer * 16 + 2 * 2 * layer * 8 + 2 * 32 * 60 * (2 * 10 + 8)
    found = products_of(batch, TINY, rank=2)
    head = [each for each in found if TINY.vocab in (each.n, each.k)]
    assert [(each.m, each.kind) for each in head] == [(10, "nt"), (10, "nn"), (8, "nt")]
    first = [each for each in found if each.batch == 1 and (each.k, each.n) == (32, 48) and each.kind == "nt"]
    assert [each.m for each in first] == [16, 8, 16, 8, 10, 8, 10, 8], (
        "gate and up: the last layer where scores are fed"
    )
    passed_on = [each for each in found if each.kind == "nn" and (each.k, each.n) == (48, 32)]
    assert [each.m for each in passed_on] == [16, 16, 10, 10]
    attention = sum(each.flops for each in found if each.batch == 4)
    squares = 3 * 2 * (8 * 4 + 8 * 4) + 2 * (5 * 8 + 3 * 5) + 3 * 2 * (4 * 7 + 6 * 6) + 2 * (5 * 8 + 3 * 5)
    assert attention == 2 * 4 * 8 * squares


def test_bare_products_are_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every factor has the shape its product names, whatever order its memory has."""
    seen: list[tuple[int, ...]] = []

    def note(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        seen.append((*left.shape, *right.shape, *out.shape))
        return out

    monkeypatch.setattr(torch, "mm", note)
    monkeypatch.setattr(torch, "bmm", note)
    products = products_of(batch_of((5, 4), (3, 6)), TINY, rank=2)
    Bare(products).run(products)
    wanted = [(m, k, k, n, m, n) if b == 1 else (b, m, k, b, k, n, b, m, n) for m, k, n, _, b in products]
    assert seen == wanted


def test_the_rows_have_the_lengths_that_the_table_tells() -> None:
    batches = random_batches(32, 1000)
    prompts = np.array([len(pair.prompt_ids) for batch in batches for pair in batch.pairs])
    completions = np.array([len(pair.completion_ids) for batch in batches for pair in batch.pairs])
    labels = [label for batch in batches for label in batch.labels]
    assert (prompts.min() >= 30, prompts.max() <= 270, completions.min() >= 10, completions.max() <= 390) == (True,) * 4
    assert prompts.mean() == pytest.approx(102, abs=5)
    assert completions.mean() == pytest.approx(102, abs=5)
    assert np.mean(labels) == pytest.approx(0.6, abs=0.03)
    for batch in random_batches(1, 1000, shared=200):
        assert len({tuple(pair.prompt_ids[:200]) for pair in batch.pairs}) == 1
        for row, pair in enumerate(batch.kl_pairs):
            assert pair.prompt_ids is batch.pairs[row].prompt_ids
            assert pair.completion_ids is batch.pairs[row - 1].completion_ids


def test_twins_share_weights_and_not_adapters() -> None:
    base = random_llama(TINY)
    other = twin(base)
    ours = Ours(base, bench_config())
    assert not any("lora" in name for name, _ in other.named_parameters())
    shared = {parameter.data_ptr() for parameter in other.parameters()}
    frozen = [p for p in ours.policy.model.parameters() if not p.requires_grad]
    assert {parameter.data_ptr() for parameter in frozen} == shared


def test_the_gpu_table_on_a_small_model(capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints on a GPU, by the same code: without CUDA (and without TRL) those rows are not run, and nothing else."""
    torch.set_num_threads(1)
    size = Size(shape=TINY, rows=6, rounds=2, scale=0.15, utilisation=2.0)
    rows = {row.name: row for row in compare("tiny", size, torch.device("cpu"))}
    assert "ours recomputes 0 of 2 layers" in capsys.readouterr().err
    assert rows["tiny ours"].n == rows["tiny ours, recomputing"].n == 2
    used = rows["tiny utilisation on real tokens"]
    assert used.value is not None
    assert 0 < used.value < 2
    assert (used.must, used.holds) == (">= 2", False)
    promised = {name: row.must for name, row in rows.items() if row.must}
    assert promised == {
        "tiny utilisation on real tokens": ">= 2",
        "tiny TRL defaults / ours": ">= 3",
        "tiny TRL best / ours": ">= 1.6",
        "tiny TRL defaults / ours recomputing": ">= 1",
        "tiny peak memory, ours recomputing / TRL defaults": "<= 1",
        "tiny host waits for the device per microbatch": "<= 0",
    }
    waits = rows["tiny host waits for the device per microbatch"]
    assert (waits.value, waits.holds) == (None, None)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_peak_memory_is_the_processs_own() -> None:
    """Not what this process holds: 300 MB more here change nothing there."""
    heavy = np.ones(300 << 20, dtype=np.uint8)
    peak = peak_bytes("ours", 1000, small=True)
    assert heavy.nbytes < peak < 700 << 20


def test_the_step_agrees_with_trl() -> None:
    pytest.importorskip("trl", reason="TRL is installed by make bench NAME=parity")
    from bench.parity import dpo, kto

    torch.set_num_threads(1)
    rows = [*kto("Qwen3", 2), *dpo("Qwen3", 2)]
    assert len(rows) == 6
    assert [row.name for row in rows if not row.holds] == []
    json.dumps([row.value for row in rows], allow_nan=False)
