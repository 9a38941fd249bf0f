"""Which rows share an optimizer step, how a step is cut into forward passes, and who is whose KL partner.

All of it is a pure function: steps of (labels, batch size, seed, epoch), cuts of the lengths, partners of the data alone.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Sequence

import numpy as np

from worker.alignment.dataset import IntArray, Pair, Row


def num_steps_per_epoch(num_rows: int, batch_size: int) -> int:
    return math.ceil(num_rows / batch_size)


def epoch_steps(labels: Sequence[bool], *, batch_size: int, seed: int, epoch: int) -> list[IntArray]:
    """Row indices of each optimizer step of one epoch; every row comes once.

    Both classes are shuffled apart and dealt evenly, so each step carries the data's own mix within one row of each
    class: a file sorted by label is harmless, and a class is absent from a step only when it has fewer rows than steps.
    Rows are spread over ceil(N / batch_size) steps of equal size within one; no step is a small remainder.
    """
    rng = np.random.default_rng((seed, epoch))
    labels_N = np.asarray(labels, dtype=bool)
    desirable, undesirable = (rng.permutation(np.flatnonzero(labels_N == side)) for side in (True, False))
    count = num_steps_per_epoch(len(labels_N), batch_size)
    # Rounding one class down and the other up keeps the step sizes equal: floor(x) + ceil(n - x) = n.
    low = [s * len(desirable) // count for s in range(count + 1)]
    high = [-(-s * len(undesirable) // count) for s in range(count + 1)]
    steps = [
        rng.permutation(np.concatenate([desirable[low[s] : low[s + 1]], undesirable[high[s] : high[s + 1]]]))
        for s in range(count)
    ]
    return [steps[s] for s in rng.permutation(count)]


def microbatches(lengths: Sequence[int], *, token_budget: int, padded: bool = False) -> list[IntArray]:
    """Cut items into forward passes of at most ``token_budget`` tokens (one item alone may exceed it).

    Sorted by length, longest first: running out of memory shows at once, and the padded path (which pays the longest
    item for each) wastes little. Inside one step the order has no effect on the gradient beyond rounding.
    """
    cuts: list[list[int]] = []
    used = longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        cost = longest if padded and cuts else lengths[index]
        if not cuts or used + cost > token_budget:
            cuts.append([])
            used, longest = 0, lengths[index]
            cost = longest
        cuts[-1].append(index)
        used += cost
    return [np.asarray(cut, dtype=np.int64) for cut in cuts]


def kl_partners(rows: Sequence[Row]) -> list[int | None]:
    """For each row the row whose completion makes its mismatched pair (x, y'); None where no row qualifies.

    A partner has another prompt, another conversation root, and a completion in the same power-of-two length bucket
    (else the nearest bucket that has one). It is a pure function of the rows' contents: each row stands on a ring at the
    hash of its content and takes the first qualified row after the hash of its own query (consistent hashing). So seed,
    order and batch size change nothing, and one new row displaces about one partner.
    """
    keys = [_content_key(row) for row in rows]
    buckets: dict[int, list[tuple[bytes, int]]] = {}
    for index, row in enumerate(rows):
        buckets.setdefault(_bucket(row), []).append((_hash(b"place", keys[index]), index))
    rings = {bucket: sorted(ring) for bucket, ring in buckets.items()}
    partners: list[int | None] = []
    for index, row in enumerate(rows):
        home, query = _bucket(row), _hash(b"query", keys[index])
        nearest = sorted(rings, key=lambda bucket: (abs(bucket - home), bucket))
        found = (_first_valid(rows, row, rings[bucket], query) for bucket in nearest)
        partners.append(next((partner for partner in found if partner is not None), None))
    return partners


def mismatched_pair(row: Row, partner: Row, *, max_length: int) -> Pair:
    """(x, y'): the row's prompt, its left cut where the partner's completion needs the room."""
    completion_ids = partner.pair.completion_ids
    room = max(1, max_length - len(completion_ids))
    return Pair(row.pair.prompt_ids[-room:], completion_ids)


def _bucket(row: Row) -> int:
    return len(row.pair.completion_ids).bit_length()


def _first_valid(rows: Sequence[Row], row: Row, ring: list[tuple[bytes, int]], query: bytes) -> int | None:
    start = bisect.bisect_left(ring, (query, -1))
    for step in range(len(ring)):
        candidate = ring[(start + step) % len(ring)][1]
        if rows[candidate].prompt_key != row.prompt_key and rows[candidate].root != row.root:
            return candidate
    return None


def _content_key(row: Row) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in (row.prompt_key.encode(), row.root.encode(), row.pair.completion_ids.tobytes()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def _hash(salt: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16, person=salt).digest()
