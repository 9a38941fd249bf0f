"""What the preflight wants to know of a snapshot's files: read once, since they never change."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.core.ids import content_hash
from worker.alignment.estimate import DataSize

SAMPLED_ROWS = 5000


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """Read once from the files of an immutable snapshot."""

    num_dev_rows: int
    dev_prompts_with_both: int
    characters: tuple[int, ...]
    """Prompt and completion together, of up to SAMPLED_ROWS training rows."""
    completion_characters: int
    """Of the same rows, in all."""

    def data_size(self, num_rows: int) -> DataSize:
        """Scaled from the sampled rows to all ``num_rows``."""
        scale = num_rows / max(len(self.characters), 1)
        return DataSize.from_characters(
            num_rows=num_rows,
            characters=round(sum(self.characters) * scale),
            completion_characters=round(self.completion_characters * scale),
            longest=max(self.characters, default=0),
        )

    def share_over(self, max_length: int) -> float:
        """Share of rows that are probably longer than ``max_length`` tokens."""
        over = sum(_tokens(length) > max_length for length in self.characters)
        return over / max(len(self.characters), 1)


@lru_cache(maxsize=32)
def snapshot_facts(folder: str) -> SnapshotFacts:
    """A snapshot's folder is immutable and named by its content, so its facts are kept."""
    train, dev = Path(folder) / "train.jsonl", Path(folder) / "dev.jsonl"
    labels: dict[str, set[bool]] = defaultdict(set)
    dev_rows = _rows(dev) if dev.is_file() else []
    for row in dev_rows:
        labels[json.dumps(row["prompt"], sort_keys=True)].add(bool(row["label"]))
    both = sum(len(found) == 2 for found in labels.values())
    rows = _rows(train, SAMPLED_ROWS)
    return SnapshotFacts(
        num_dev_rows=len(dev_rows),
        dev_prompts_with_both=both,
        characters=tuple(_characters(row["prompt"]) + _characters(row["completion"]) for row in rows),
        completion_characters=sum(_characters(row["completion"]) for row in rows),
    )


@dataclass(frozen=True, slots=True)
class PairFacts:
    """What DPO makes of a training split."""

    num_pairs: int
    """Of each prompt with both labels: the longer side once, the shorter one in turn, as many as the settings allow."""
    num_left_out: int
    """Rows in no pair."""


@lru_cache(maxsize=32)
def pair_facts(folder: str, max_pairs: int) -> PairFacts:
    """Counted over all training rows. A snapshot never holds one completion of a prompt twice."""
    sides: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    with (Path(folder) / "train.jsonl").open(encoding="utf-8") as stream:
        for row in map(json.loads, stream):
            sides[content_hash(row["prompt"])][row["label"]] += 1
    return PairFacts(
        num_pairs=sum(min(max(side), max_pairs) for side in sides.values() if all(side)),
        num_left_out=sum(
            sum(max(count - max_pairs, 0) for count in side) if all(side) else sum(side) for side in sides.values()
        ),
    )


def _rows(file: Path, limit: int | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            if limit is not None and len(rows) >= limit:
                break
            if line.strip():
                rows.append(json.loads(line))
    return rows


def _characters(messages: list[dict[str, Any]]) -> int:
    return sum(len(json.dumps(message.get("content") or "", ensure_ascii=False)) for message in messages)


def _tokens(characters: int) -> int:
    return DataSize.from_characters(
        num_rows=1, characters=characters, completion_characters=0, longest=characters
    ).longest_row
