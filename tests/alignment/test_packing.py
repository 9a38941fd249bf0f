"""Packing as arithmetic on token ids: every row can be read back, nothing is packed twice, nothing is lost."""

from __future__ import annotations

import random

import numpy as np
import pytest

from worker.alignment.dataset import IntArray, Pair
from worker.alignment.packing import MIN_SHARED, Pack, cut_units, inputs_of, pack_continuations, pack_pairs, tail_of


def pair(prompt: list[int], completion: list[int]) -> Pair:
    return Pair(np.asarray(prompt), np.asarray(completion))


def family(seed: int, count: int = 20) -> list[Pair]:
    """Rows that branch off one another at random places, some equal, some one a beginning of the other."""
    chance = random.Random(seed)
    sequences = [[chance.randrange(9) for _ in range(chance.randint(2, 90))]]
    while len(sequences) < count:
        base = chance.choice(sequences)
        keep = chance.randint(0, len(base))
        more = [chance.randrange(9) for _ in range(chance.randint(0, 60))]
        if len(base[:keep] + more) >= 2:
            sequences.append(base[:keep] + more)
    places = [chance.randint(1, len(sequence) - 1) for sequence in sequences]
    return [pair(sequence[:at], sequence[at:]) for sequence, at in zip(sequences, places, strict=True)]


def visible(pack: Pack, memory: IntArray | None = None) -> list[list[int]]:
    """For each token of the row the token ids that it sees, itself included."""
    source = pack.token_ids if memory is None else memory
    seen: list[list[int]] = [[] for _ in range(pack.num_tokens)]
    for strand in pack.strands:
        context = [int(token) for start, stop in strand.context for token in source[start:stop]]
        for place in range(strand.length):
            own = pack.token_ids[strand.start : strand.start + place + 1].tolist()
            seen[strand.start + place] = context + own
            assert pack.position_ids[strand.start + place] == len(context) + place
    return seen


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [True, False])
def test_every_token_sees_its_own_row_up_to_itself(seed: int, *, share: bool) -> None:
    pairs = family(seed)
    pack = pack_pairs(pairs, share=share)
    seen, at = visible(pack), 0
    for row, path in zip(pairs, pack.prompt_paths, strict=True):
        assert pack.token_ids[path].tolist() == row.prompt_ids.tolist()
        whole = row.prompt_ids.tolist() + row.completion_ids.tolist()
        for place, target in enumerate(row.completion_ids.tolist()):
            assert seen[pack.score_rows[at]] == whole[: len(row.prompt_ids) + place]
            assert pack.targets[at] == target
            at += 1
    assert at == len(pack.targets) == pack.lengths.sum()
    total = sum(len(inputs_of(row)) for row in pairs)
    assert pack.num_tokens == sum(strand.length for strand in pack.strands)
    assert pack.num_tokens < total if share else pack.num_tokens == total


@pytest.mark.parametrize("seed", range(4))
def test_a_tail_holds_what_the_head_reads_and_sees_the_same_keys(seed: int) -> None:
    pack = pack_pairs(family(seed))
    tail, before = tail_of(pack), visible(pack)
    assert set(pack.score_rows.tolist()) <= set(tail.rows.tolist())
    assert len(tail.rows) == len(set(tail.rows.tolist())) < pack.num_tokens
    for strand in tail.pack.strands:
        context = [int(token) for start, stop in strand.context for token in pack.token_ids[start:stop]]
        for place in range(strand.length):
            own = pack.token_ids[strand.keys_start : strand.keys_start + place + 1].tolist()
            row = tail.rows[strand.start + place]
            assert context + own == before[row]
            assert tail.pack.position_ids[strand.start + place] == pack.position_ids[row]


def test_what_is_shared_is_computed_once() -> None:
    system = list(range(100, 300))
    pairs = [pair([*system, number], [number, 7, 8]) for number in range(8)]
    assert pack_pairs(pairs).num_tokens == 200 + 8 * 3
    assert pack_pairs([pairs[0]] * 4).num_tokens == 203
    short = list(range(MIN_SHARED - 1))
    assert pack_pairs([pair([*short, 50], [1]), pair([*short, 60], [1])]).num_tokens == 2 * MIN_SHARED


def test_continuations_see_the_prompt_in_the_memory() -> None:
    pairs = family(3)
    pack = pack_pairs(pairs)
    mixed = [
        Pair(row.prompt_ids, other.completion_ids) for row, other in zip(pairs, pairs[1:] + pairs[:1], strict=True)
    ]
    cut = Pair(mixed[0].prompt_ids[-1:], mixed[0].completion_ids)
    paths = [None, *pack.prompt_paths[1:]]
    more = pack_continuations([cut, *mixed[1:]], paths, pack.num_tokens)
    seen, before, at = visible(more, pack.token_ids), visible(pack), 0
    for row in [cut, *mixed[1:]]:
        whole = row.prompt_ids.tolist() + row.completion_ids.tolist()
        for place in range(len(row.completion_ids)):
            rows = more.score_rows[at]
            found = before[rows] if rows < pack.num_tokens else seen[rows - pack.num_tokens]
            assert found == whole[: len(row.prompt_ids) + place]
            at += 1
    expected = len(inputs_of(cut)) + sum(len(row.completion_ids) - 1 for row in mixed[1:])
    assert more.num_tokens == expected


@pytest.mark.parametrize("options", [{}, {"share": False}, {"padded": True}])
@pytest.mark.parametrize("budget", [60, 200, 10_000])
def test_cuts_hold_every_row_once_units_whole_and_the_budget(options: dict[str, bool], budget: int) -> None:
    pairs = family(1, 30)
    units = [(2 * number, 2 * number + 1) for number in range(15)]
    cuts = cut_units(pairs, units, token_budget=budget, **options)
    assert sorted(int(row) for cut in cuts for row in cut) == list(range(30))
    for cut in cuts:
        assert all((row ^ 1) in cut for row in cut)
        rows = [pairs[row] for row in cut]
        lengths = [len(inputs_of(row)) for row in rows]
        tokens = pack_pairs(rows, share=options.get("share", True)).num_tokens
        cost = max(lengths) * len(rows) if options.get("padded") else tokens
        assert cost <= budget or len(cut) == 2


def test_a_pass_takes_at_least_so_many_rows() -> None:
    pairs = [pair([number], [1] * 50) for number in range(70)]
    assert [len(cut) for cut in cut_units(pairs, token_budget=100, min_rows=16)] == [16, 16, 16, 22]
