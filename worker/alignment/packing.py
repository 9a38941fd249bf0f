"""Packing: many sequences in one row of tokens, without padding, and what they begin with in common only once.

A sequence enters the model as prompt + completion without its last token: the hidden state at each position scores the
token after it. The packed row is a list of strands. A strand is a run of new tokens that continues a context: keys that
lie earlier in the row (a system prompt that eight rows share, a prompt with several ratings, the turns before), or in a
``Memory`` of keys and values from an earlier forward (the prompt of a mismatched pair). Attention over strands is exact:
a token sees its context and its own strand up to itself, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from worker.alignment.dataset import IntArray, Pair

Ranges = tuple[tuple[int, int], ...]
"""Half-open, in the order of their positions."""
MIN_SHARED = 16
"""Shorter common beginnings are computed again: a strand with a context costs its attention a mask and a copy of keys."""
_NOTHING: IntArray = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Strand:
    start: int
    """Of its first token in the row."""
    length: int
    context: Ranges
    """What its keys begin with: ranges of the row, or of the memory where the pack has one."""
    own_keys: int = -1
    """Where its own keys begin, when they lie elsewhere than its tokens: in a tail."""

    @property
    def keys_start(self) -> int:
        return self.start if self.own_keys < 0 else self.own_keys

    @property
    def num_context(self) -> int:
        return sum(stop - start for start, stop in self.context)


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    token_ids: IntArray
    """[T]"""
    position_ids: IntArray
    """[T]"""
    strands: list[Strand]
    score_rows: IntArray
    """[N] hidden row before each completion token; with a memory its hidden rows come first."""
    targets: IntArray
    """[N] completion tokens, pair by pair."""
    lengths: IntArray
    """[B] completion tokens of each pair."""
    prompt_paths: list[IntArray]
    """For each pair the rows of its prompt's tokens."""
    from_memory: bool = False
    """Contexts are in the memory."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def longest(self) -> int:
        """Tokens of the longest strand and its context."""
        return max(strand.num_context + strand.length for strand in self.strands)


def inputs_of(pair: Pair) -> IntArray:
    """Token ids fed to the model: everything but the last completion token."""
    return np.concatenate([pair.prompt_ids, pair.completion_ids[:-1]])


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The end of each strand, from the first position that the head reads: queries to the whole row's keys."""

    rows: IntArray
    """[n] of the row, in order."""
    pack: Pack
    """Of the n rows, with every strand's beginning in its context; only its strands and positions mean anything."""


def tail_of(pack: Pack) -> Tail:
    """What of a row the last layer must compute beside keys and values."""
    read = np.zeros(pack.num_tokens, dtype=bool)
    read[pack.score_rows] = True
    rows: list[IntArray] = []
    strands: list[Strand] = []
    total = 0
    for strand in pack.strands:
        stop = strand.start + strand.length
        found = np.flatnonzero(read[strand.start : stop])
        if not len(found):
            continue
        first = strand.start + int(found[0])
        context = (*strand.context, (strand.start, first)) if first > strand.start else strand.context
        strands.append(Strand(total, stop - first, context, own_keys=first))
        rows.append(np.arange(first, stop))
        total += stop - first
    kept = np.concatenate(rows)
    return Tail(
        kept, replace(pack, token_ids=pack.token_ids[kept], position_ids=pack.position_ids[kept], strands=strands)
    )


def pack_pairs(pairs: Sequence[Pair], *, share: bool = True) -> Pack:
    """Pack whole pairs; with ``share`` a beginning of at least MIN_SHARED tokens that two rows have in common comes once."""
    inputs = [inputs_of(pair) for pair in pairs]
    order = lexicographic(inputs) if share else list(range(len(inputs)))
    paths: list[IntArray] = [_NOTHING] * len(inputs)
    tokens: list[IntArray] = []
    positions: list[IntArray] = []
    strands: list[Strand] = []
    total, before = 0, -1
    for index in order:
        shared = common_length(inputs[before], inputs[index]) if share and before >= 0 else 0
        shared = shared if shared >= MIN_SHARED else 0
        context = paths[before][:shared]
        length = len(inputs[index]) - shared
        if length:
            strands.append(Strand(total, length, _ranges(context)))
            tokens.append(inputs[index][shared:])
            positions.append(np.arange(shared, shared + length))
        paths[index] = np.concatenate([context, np.arange(total, total + length)])
        total += length
        before = index
    return Pack(
        token_ids=np.concatenate(tokens),
        position_ids=np.concatenate(positions),
        strands=strands,
        score_rows=np.concatenate([path[len(p.prompt_ids) - 1 :] for path, p in zip(paths, pairs, strict=True)]),
        targets=np.concatenate([pair.completion_ids for pair in pairs]),
        lengths=np.asarray([len(pair.completion_ids) for pair in pairs], dtype=np.int64),
        prompt_paths=[path[: len(pair.prompt_ids)] for path, pair in zip(paths, pairs, strict=True)],
    )


def pack_continuations(pairs: Sequence[Pair], prompt_paths: Sequence[IntArray | None], memory_tokens: int) -> Pack:
    """Pack the completions of pairs whose prompts lie in a memory of ``memory_tokens`` rows.

    ``prompt_paths[i]`` are the memory's rows of pair i's prompt; None where it is not there (its left was cut for a longer
    completion), and the pair is packed whole.
    """
    tokens: list[IntArray] = []
    positions: list[IntArray] = []
    strands: list[Strand] = []
    scores: list[IntArray] = []
    total = 0
    for pair, path in zip(pairs, prompt_paths, strict=True):
        new = inputs_of(pair) if path is None else pair.completion_ids[:-1]
        first = 0 if path is None else len(pair.prompt_ids)
        own = np.arange(memory_tokens + total, memory_tokens + total + len(new))
        scores.append(own[len(pair.prompt_ids) - 1 :] if path is None else np.concatenate([path[-1:], own]))
        if len(new):
            strands.append(Strand(total, len(new), () if path is None else _ranges(path)))
            tokens.append(new)
            positions.append(np.arange(first, first + len(new)))
        total += len(new)
    return Pack(
        token_ids=np.concatenate([_NOTHING, *tokens]),
        position_ids=np.concatenate([_NOTHING, *positions]),
        strands=strands,
        score_rows=np.concatenate(scores),
        targets=np.concatenate([pair.completion_ids for pair in pairs]),
        lengths=np.asarray([len(pair.completion_ids) for pair in pairs], dtype=np.int64),
        prompt_paths=[_NOTHING if path is None else path for path in prompt_paths],
        from_memory=True,
    )


def cut_units(
    pairs: Sequence[Pair],
    units: Sequence[Sequence[int]] | None = None,
    *,
    token_budget: int,
    padded: bool = False,
    share: bool = True,
    min_rows: int = 1,
) -> list[IntArray]:
    """Cut rows into forward passes of at most ``token_budget`` tokens; a unit (None: each row is one) stays together.

    One unit alone may exceed the budget, and a pass takes at least ``min_rows`` rows. Where beginnings are shared,
    neighbours are the rows that share most, and what is shared counts once. The padded path, which pays the longest row
    for each, takes rows by length. The gradient does not depend on the cut beyond rounding.
    """
    units = units if units is not None else [(index,) for index in range(len(pairs))]
    inputs = [inputs_of(pair) for pair in pairs]
    if padded:
        order = sorted(range(len(units)), key=lambda u: (-max(len(inputs[row]) for row in units[u]), u))
    elif share:
        rank = {row: place for place, row in enumerate(lexicographic(inputs))}
        order = sorted(range(len(units)), key=lambda u: min(rank[row] for row in units[u]))
    else:
        order = list(range(len(units)))
    cuts: list[list[int]] = []
    used = longest = 0
    before: IntArray = _NOTHING
    for unit in order:
        rows = sorted(units[unit], key=rank.__getitem__) if share and not padded else list(units[unit])
        fresh, cost, new_longest, last = 0, 0, 0, before
        for row in rows:
            fresh += len(inputs[row])
            shared = common_length(last, inputs[row]) if share and not padded else 0
            cost += len(inputs[row]) - (shared if shared >= MIN_SHARED else 0)
            new_longest = max(new_longest, len(inputs[row]))
            last = inputs[row]
        if padded and cuts:
            longest = max(longest, new_longest)
            cost = longest * (len(cuts[-1]) + len(rows)) - used
        if not cuts or (used + cost > token_budget and len(cuts[-1]) >= min_rows):
            cuts.append([])
            used, longest = 0, new_longest
            cost = new_longest * len(rows) if padded else fresh
        cuts[-1].extend(rows)
        used += cost
        before = last
    return _joined(cuts, min_rows)


def common_length(a: IntArray, b: IntArray) -> int:
    """Number of leading tokens that two sequences share."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


def _joined(cuts: list[list[int]], min_rows: int) -> list[IntArray]:
    """A last pass that is too small joins the one before."""
    if len(cuts) > 1 and len(cuts[-1]) < min_rows:
        cuts[-2].extend(cuts.pop())
    return [np.asarray(cut, dtype=np.int64) for cut in cuts]


def lexicographic(inputs: Sequence[IntArray]) -> list[int]:
    """Sorted so, a sequence shares most with the one before it. Big-endian bytes compare as the numbers do."""
    keys = [sequence.astype(">u4").tobytes() for sequence in inputs]
    return sorted(range(len(inputs)), key=keys.__getitem__)


def _ranges(rows: IntArray) -> Ranges:
    if len(rows) == 0:
        return ()
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts, stops = [0, *breaks.tolist()], [*breaks.tolist(), len(rows)]
    return tuple((int(rows[start]), int(rows[stop - 1]) + 1) for start, stop in zip(starts, stops, strict=True))
