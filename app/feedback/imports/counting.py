"""What became of rows, while they pass: counts, the first rejected ones, and chunks of good ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from app.feedback.imports.formats import Checked
from app.feedback.schemas import FeedbackItem, ItemResult

CHUNK_ROWS = 1000
CHUNK_CHARS = 4 * 2**20
MAX_LISTED = 1000


@dataclass
class Tally:
    """Rows read and rejected."""

    num_rows: int = 0
    num_rejected: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """The first 1,000: {"line", "reason"}."""

    def reject(self, line: int, reason: str) -> None:
        self.num_rejected += 1
        if len(self.rejected) < MAX_LISTED:
            self.rejected.append({"line": line, "reason": _visible(reason)[:500]})


def _visible(text: str) -> str:
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


@dataclass
class Chunk:
    numbers: list[int] = field(default_factory=list)
    """Which of all rows each is, from 1."""
    lines: list[int] = field(default_factory=list)
    items: list[FeedbackItem] = field(default_factory=list)


def chunks(rows: Iterable[Checked], tally: Tally) -> Iterator[Chunk]:
    """Good rows, at most 1,000 or about 4 million characters at a time; bad ones are counted and listed. The last may be empty."""
    chunk, read, size = Chunk(), 0, 0
    for line, found in rows:
        tally.num_rows += 1
        read += 1
        if isinstance(found, str):
            tally.reject(line, found)
        else:
            chunk.numbers.append(tally.num_rows)
            chunk.lines.append(line)
            chunk.items.append(found)
            size += sum(len(str(part.get("content"))) for part in (*found.prompt, *found.completion))
        if read >= CHUNK_ROWS or size >= CHUNK_CHARS:
            yield chunk
            chunk, read, size = Chunk(), 0, 0
    yield chunk


@dataclass
class Outcome:
    """What storing did."""

    created: int = 0
    updated: int = 0
    duplicate: int = 0

    def add(self, lines: Iterable[int], results: Iterable[ItemResult], tally: Tally) -> None:
        for line, result in zip(lines, results, strict=True):
            if result.status == "created":
                self.created += 1
            elif result.status == "updated":
                self.updated += 1
            elif result.status == "error":
                tally.reject(line, "; ".join(f"{name}: {words}" for name, words in result.fields.items()))
            else:
                self.duplicate += 1


def why_nothing(tally: Tally) -> str | None:
    """Words where no row was good."""
    if tally.num_rows == 0:
        return "The file is empty."
    if tally.num_rejected < tally.num_rows:
        return None
    first = tally.rejected[0]
    rows = "The only row was" if tally.num_rows == 1 else f"All {tally.num_rows:,} rows were"
    return f"{rows} rejected. Line {first['line']}: {first['reason']}."
