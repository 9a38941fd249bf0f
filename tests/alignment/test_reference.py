"""The reference cache: what it saves, what it refuses, and that it survives damage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from worker.alignment.dataset import IntArray, Pair
from worker.alignment.reference import ReferenceCache, ReferenceLogps, namespace, reference_logps, weights_hash

SPACE = namespace(base="b", dtype="float32")


class Scorer:
    """Counts what it is asked."""

    def __init__(self, offset: float = 0.0) -> None:
        self.rows = 0
        self.offset = offset

    def __call__(self, pairs: Sequence[Pair]) -> torch.Tensor:
        self.rows += len(pairs)
        return torch.tensor([-float(pair.completion_ids.sum()) + self.offset for pair in pairs])


def pairs(count: int, start: int = 0) -> list[Pair]:
    return [Pair(np.arange(3) + n, np.arange(2) + n) for n in range(start, start + count)]


def two_at_once(asked: Sequence[Pair]) -> list[IntArray]:
    return np.array_split(np.arange(len(asked)), -(-len(asked) // 2)) if asked else []


def run(folder: Path, asked: list[Pair], scorer: Scorer, space: str = SPACE) -> ReferenceLogps:
    return reference_logps(asked, ReferenceCache(folder, space), scorer, cuts=two_at_once, dtype=torch.float32)


def test_a_second_run_computes_nothing_but_eight_checks(tmp_path: Path) -> None:
    first = run(tmp_path, pairs(40), Scorer())
    assert first.num_computed == 40
    scorer = Scorer()
    second = run(tmp_path, pairs(40)[::-1], scorer)
    assert (second.num_computed, second.num_checked, scorer.rows) == (0, 8, 8)
    assert second.logps.tolist() == first.logps.tolist()[::-1]
    assert first.logps.tolist() == [-float(2 * n + 1) for n in range(40)]


def test_new_rows_cost_themselves_only_and_repeated_rows_once(tmp_path: Path) -> None:
    run(tmp_path, pairs(40), Scorer())
    assert run(tmp_path, pairs(43), Scorer()).num_computed == 3
    assert run(tmp_path, [*pairs(2, 90), *pairs(2, 90)], Scorer()).num_computed == 2


def test_another_namespace_shares_nothing(tmp_path: Path) -> None:
    run(tmp_path, pairs(5), Scorer())
    assert run(tmp_path, pairs(5), Scorer(), namespace(base="b", dtype="bfloat16")).num_computed == 5


def test_prompt_and_completion_do_not_run_together(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path, SPACE)
    ids = np.arange(4)
    assert cache.key(Pair(ids[:1], ids[1:])) != cache.key(Pair(ids[:2], ids[2:]))


@pytest.mark.parametrize("offset", [0.5, float("nan")])
def test_a_cache_that_disagrees_is_refused_and_replaced(tmp_path: Path, offset: float) -> None:
    run(tmp_path, pairs(20), Scorer(offset))
    again = run(tmp_path, pairs(20), Scorer())
    assert again.refused is not None
    assert again.num_computed == 20
    assert again.logps.tolist() == [-float(2 * n + 1) for n in range(20)]
    assert run(tmp_path, pairs(20), Scorer()).num_computed == 0


def test_a_damaged_segment_is_computed_again(tmp_path: Path) -> None:
    run(tmp_path, pairs(5), Scorer())
    (segment,) = (tmp_path / "reference" / SPACE).glob("*.npz")
    segment.write_bytes(segment.read_bytes()[:40])
    assert run(tmp_path, pairs(5), Scorer()).num_computed == 5


def test_concurrent_writers_keep_both_results(tmp_path: Path) -> None:
    one, two = ReferenceCache(tmp_path, SPACE), ReferenceCache(tmp_path, SPACE)
    one.add(b"a" * 32, -1.0)
    two.add(b"b" * 32, -2.0)
    one.flush()
    two.flush()
    assert ReferenceCache(tmp_path, SPACE).values == {b"a" * 32: -1.0, b"b" * 32: -2.0}
    assert not list(tmp_path.rglob("*.partial"))


def test_weights_hash_follows_the_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"abc")
    first = weights_hash(folder, tmp_path / "cache")
    assert weights_hash(folder, tmp_path / "cache") == first
    (folder / "model.safetensors").write_bytes(b"abcd")
    assert weights_hash(folder, tmp_path / "cache") != first
