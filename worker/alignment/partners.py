"""Who is whose KL partner: the mismatched pairs (x, y') behind z0, as a pure function of the data."""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from worker.alignment.dataset import Pair, Row

Field = Literal["prompt_key", "root"]


def kl_partners(rows: Sequence[Row]) -> list[int | None]:
    """For each row the row whose completion makes its mismatched pair (x, y'); None where no row qualifies.

    A partner has another prompt, another conversation root, and a completion in the same power-of-two length bucket
    (else the nearest bucket that has one). It depends on the rows' contents only: each row stands on its bucket's ring
    at the hash of its content and takes the first qualified row after it (consistent hashing). So seed, order and batch
    size change nothing, a completion serves about once, and a new row displaces the partner of the row before it only;
    of more where that one does not qualify for those before it: rows of one prompt side by side, or a bucket's first row
    of another prompt.
    """
    keys = [content_key(row) for row in rows]
    places: dict[int, list[tuple[bytes, int]]] = {}
    for index, row in enumerate(rows):
        places.setdefault(_bucket(row), []).append((_hash(b"place", keys[index]), index))
    rings = {bucket: _Ring(rows, sorted(entries)) for bucket, entries in places.items()}
    partners: list[int | None] = []
    for row, key in zip(rows, keys, strict=True):
        home, place = _bucket(row), _hash(b"place", key)
        nearest = sorted(rings, key=lambda bucket: (abs(bucket - home), bucket))
        found = (rings[bucket].first_after(place, row) for bucket in nearest)
        partners.append(next((partner for partner in found if partner is not None), None))
    return partners


def mismatched_pair(row: Row, partner: Row, *, max_length: int) -> Pair:
    """(x, y'): the row's prompt, its left cut where the partner's completion needs the room."""
    completion_ids = partner.pair.completion_ids
    room = max(1, max_length - len(completion_ids))
    return Pair(row.pair.prompt_ids[-room:], completion_ids)


class _Ring:
    """Rows in the order of their hashes."""

    def __init__(self, rows: Sequence[Row], entries: list[tuple[bytes, int]]) -> None:
        self._rows = rows
        self.entries = entries
        self._counts: dict[Field, Counter[str]] = {
            "prompt_key": Counter(rows[index].prompt_key for _, index in entries),
            "root": Counter(rows[index].root for _, index in entries),
        }
        self._without: dict[tuple[Field, str], _Ring] = {}

    def first_after(self, place: bytes, row: Row) -> int | None:
        """The first row after ``place`` with another prompt and another root than ``row``."""
        ring = self.without("prompt_key", row.prompt_key).without("root", row.root)
        entries = ring.entries
        start = bisect.bisect_left(entries, (place, -1))
        for step in range(len(entries)):
            candidate = entries[(start + step) % len(entries)][1]
            other = self._rows[candidate]
            if other.prompt_key != row.prompt_key and other.root != row.root:
                return candidate
        return None

    def without(self, name: Field, value: str) -> _Ring:
        """The ring less the rows of a value that fills over a quarter of it: walks stay short on lopsided data."""
        if 4 * self._counts[name][value] <= len(self.entries):
            return self
        if (name, value) not in self._without:
            kept = [entry for entry in self.entries if getattr(self._rows[entry[1]], name) != value]
            self._without[name, value] = _Ring(self._rows, kept)
        return self._without[name, value]


def _bucket(row: Row) -> int:
    return len(row.pair.completion_ids).bit_length()


def content_key(row: Row) -> bytes:
    """16 bytes that stand for what a row says: prompt, conversation root and completion, not its id or place."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (row.prompt_key.encode(), row.root.encode(), row.pair.completion_ids.tobytes()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def _hash(salt: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16, person=salt).digest()
