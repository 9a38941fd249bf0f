"""FlexAttention's mask: the formula and the table of blocks, against every (query, key) counted out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from worker.alignment.dataset import Pair
from worker.alignment.flex import BLOCK, Blocks, block_table, keys_of
from worker.alignment.packing import Pack, pack_continuations, pack_pairs

REACHES = [(0, 0), (100, 0), (0, 128), (0, 60)]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


def packs() -> list[tuple[Pack, int]]:
    """Rows of several blocks that share prefixes, and mismatched pairs on their keys, with the memory's tokens."""
    chance = np.random.default_rng(0)

    def tokens(count: int) -> Any:
        return chance.integers(0, 50, count)

    system = tokens(300)
    prompts = [np.concatenate([system, tokens(count)]) for count in (10, 10, 200, 150)]
    prompts[1] = prompts[0]
    pairs = [Pair(prompt, tokens(count)) for prompt, count in zip(prompts, (40, 300, 5, 400), strict=True)]
    pairs.append(Pair(tokens(7), tokens(3)))
    others = [Pair(a.prompt_ids, b.completion_ids) for a, b in zip(pairs, [*pairs[1:], pairs[0]], strict=True)]
    pack = pack_pairs(pairs)
    assert sum(bool(strand.context) for strand in pack.strands) == 3
    return [(pack, 0), (pack_continuations(others, pack.prompt_paths, pack.num_tokens), pack.num_tokens)]


def counted_out(pack: Pack, memory_tokens: int, window: int, chunk: int) -> Bools:
    seen = np.zeros((pack.num_tokens, memory_tokens + pack.num_tokens), dtype=np.bool_)
    for strand in pack.strands:
        path = [row for start, stop in strand.context for row in range(start, stop)]
        for row in range(strand.start, strand.start + strand.length):
            path.append(row + memory_tokens)
            first = max(len(path) - window if window else 0, (len(path) - 1) // chunk * chunk if chunk else 0)
            seen[row, path[max(first, 0) :]] = True
    return seen


@pytest.mark.parametrize(("window", "chunk"), REACHES)
def test_formula_and_blocks(window: int, chunk: int) -> None:
    for pack, memory_tokens in packs():
        right = counted_out(pack, memory_tokens, window, chunk)
        mask = Blocks(pack, torch.device("cpu"), memory_tokens).mask(window, chunk)
        queries, keys = torch.arange(right.shape[0])[:, None], torch.arange(right.shape[1])[None]
        zero = torch.zeros(())
        assert (mask.mask_mod(zero, zero, queries, keys).numpy() == right).all()

        touched, full = block_table(pack, keys_of(pack, memory_tokens), window, chunk)
        rows, columns = touched.shape
        padded = np.zeros((rows * BLOCK, columns * BLOCK), dtype=np.bool_)
        padded[: right.shape[0], : right.shape[1]] = right
        blocks = padded.reshape(rows, BLOCK, columns, BLOCK)
        assert (touched == blocks.any(axis=(1, 3))).all()
        assert not (full & ~blocks.all(axis=(1, 3))).any()
        assert (mask.to_dense().numpy()[0, 0].astype(np.bool_) == touched).all()
        if not window and not chunk:
            assert full.sum() >= 5  # the kernel asks no formula there


def test_masks_are_made_once() -> None:
    ((pack, memory_tokens), _) = packs()
    blocks = Blocks(pack, torch.device("cpu"), memory_tokens)
    assert blocks.mask(100, 0) is blocks.mask(100, 0)
    assert blocks.mask(100, 0) is not blocks.mask(0, 0)
