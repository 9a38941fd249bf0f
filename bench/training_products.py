"""The matrix products that one KTO step cannot do without, and how long plain float32 products of these shapes take.

Counted for rows that share nothing and a cached reference, with the embedding and the head frozen:

- every position of a row once, forward and backward; in the last layer only positions that feed the head go beyond keys
  and values; the first layer's queries, keys and values have no gradient to pass on;
- the completion of each mismatched pair once, forward, on the keys and values of its row's prompt;
- the head at completion positions: two products for a row (scores, and their slope), one for a mismatched pair;
- causal attention over half of the square: two products forward, four backward.

Nothing is counted twice for checkpointing, padding or recomputation: a trainer that needs those has a lower rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from bench.training_model import Batch, Shape

HEAD_ROWS = 512
"""Positions that the head's products take at a time: no more than a few hundred MB of scores live."""


class Product(NamedTuple):
    """``batch`` products of [m, k] with [k, n]; ``kind`` names the factors' memory order.

    nt: rows by a weight as it lies in a linear layer. nn: its gradient. tn: a weight's gradient from rows.
    """

    m: int
    k: int
    n: int
    kind: str
    batch: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.k * self.n


def products_of(batch: Batch, shape: Shape, rank: int) -> list[Product]:
    """All products of one step, in about the order of the step."""
    rows = [(len(pair.prompt_ids), len(pair.completion_ids)) for pair in batch.pairs]
    kl = [(len(pair.prompt_ids), len(pair.completion_ids)) for pair in batch.kl_pairs]
    fed = sum(x + y - 1 for x, y in rows)
    scored = sum(y for _, y in rows)
    fed_kl = sum(y - 1 for _, y in kl)
    found: list[Product] = []
    for layer in range(shape.layers):
        last = layer == shape.layers - 1
        for name, (wide, out) in shape.linears.items():
            positions = scored if last and name not in {"k", "v"} else fed
            found += _linear(positions, wide, out, rank)
            found += _linear_backward(positions, wide, out, rank, passes_on=layer > 0 or name not in {"q", "k", "v"})
            found += _linear(fed_kl, wide, out, rank)
        found += _attention(rows, kl, shape, last=last)
    found += list(_head(scored, shape, slope=True))
    found += list(_head(fed_kl, shape, slope=False))  # y'_1 is scored where y_1 is: the same row of scores
    return [each for each in found if each.m > 0]


def needed_flops(batch: Batch, shape: Shape) -> int:
    """Floating-point operations on real tokens: the base model forward, and backward to its inputs; half of that for the
    completions of mismatched pairs; the head as above. Attention and adapters, a few per cent, are left out."""
    body = shape.layers * sum(wide * out for wide, out in shape.linears.values())
    tokens = sum(len(pair.prompt_ids) + len(pair.completion_ids) - 1 for pair in batch.pairs)
    scored = sum(len(pair.completion_ids) for pair in batch.pairs)
    kl_tokens = sum(len(pair.completion_ids) - 1 for pair in batch.kl_pairs)
    return 4 * body * tokens + 2 * body * kl_tokens + 2 * shape.hidden * shape.vocab * (2 * scored + kl_tokens)


def _linear(positions: int, wide: int, out: int, rank: int) -> list[Product]:
    return [
        Product(positions, wide, out, "nt"),
        Product(positions, wide, rank, "nt"),
        Product(positions, rank, out, "nt"),
    ]


def _linear_backward(positions: int, wide: int, out: int, rank: int, *, passes_on: bool) -> list[Product]:
    """The adapter's two gradients, the gradient at its waist, and what goes on to the layer before."""
    found = [
        Product(positions, out, rank, "nn"),
        Product(out, positions, rank, "tn"),
        Product(rank, positions, wide, "tn"),
    ]
    if passes_on:
        found += [Product(positions, out, wide, "nn"), Product(positions, rank, wide, "nn")]
    return found


def _attention(
    rows: Sequence[tuple[int, int]], kl: Sequence[tuple[int, int]], shape: Shape, *, last: bool
) -> Iterator[Product]:
    for x, y in rows:
        queries, keys = (y, x + (y + 1) // 2) if last else (x + y - 1, (x + y) // 2)
        for _ in range(3):  # scores and mixing; then the same again for each of their two factors
            yield Product(queries, shape.head_dim, keys, "nt", shape.heads)
            yield Product(queries, keys, shape.head_dim, "nn", shape.heads)
    for x, y in kl:
        yield Product(y - 1, shape.head_dim, x + y // 2, "nt", shape.heads)
        yield Product(y - 1, x + y // 2, shape.head_dim, "nn", shape.heads)


def _head(positions: int, shape: Shape, *, slope: bool) -> Iterator[Product]:
    for start in range(0, positions, HEAD_ROWS):
        part = min(HEAD_ROWS, positions - start)
        yield Product(part, shape.hidden, shape.vocab, "nt")
        if slope:
            yield Product(part, shape.vocab, shape.hidden, "nn")


class Bare:
    """Runs products on memory that is there already: nothing but the products is in its time."""

    def __init__(self, products: Sequence[Product]) -> None:
        def largest(size: Sequence[int]) -> int:
            return max(size)

        torch.manual_seed(0)
        self._left = torch.randn(largest([p.batch * p.m * p.k for p in products]))
        self._right = torch.randn(2 * largest([p.batch * p.k * p.n for p in products]))
        self._out = torch.empty(largest([p.batch * p.m * p.n for p in products]))

    def run(self, products: Sequence[Product]) -> None:
        place = 0
        for m, k, n, kind, batch in products:
            size = batch * k * n
            place = 0 if place + size > len(self._right) else place  # weights of different layers lie apart
            left = self._left[: batch * m * k].view((batch, k, m) if kind == "tn" else (batch, m, k))
            right = self._right[place : place + size].view((batch, n, k) if kind == "nt" else (batch, k, n))
            place += size
            left = left.transpose(1, 2) if kind == "tn" else left
            right = right.transpose(1, 2) if kind == "nt" else right
            out = self._out[: batch * m * n].view(batch, m, n)
            if batch == 1:
                torch.mm(left[0], right[0], out=out[0])
            else:
                torch.bmm(left, right, out=out)
