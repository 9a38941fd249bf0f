"""Files of an evaluation job that outlive a kill: JSON lines that are added to and never repeated, and how far it is.

What lies in a file counts as done. A line that a kill tore is dropped when the file is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class LinesFile:
    """JSON objects, one a line; ``keys`` are the values of ``key_fields`` of those that are there."""

    def __init__(self, path: Path, key_fields: Sequence[str]) -> None:
        self.path = path
        self._fields = tuple(key_fields)
        self.keys = {self.key(record) for record in self._mend()}

    def key(self, record: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(record[name] for name in self._fields)

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add those whose key is not there yet, and put them on the disk."""
        fresh = [record for record in records if self.key(record) not in self.keys]
        if not fresh:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record) + "\n" for record in fresh))
            file.flush()
            os.fsync(file.fileno())
        self.keys.update(map(self.key, fresh))

    def _mend(self) -> list[dict[str, Any]]:
        """The whole lines that are there; a file with others is written anew without them."""
        if not self.path.is_file():
            return []
        lines = self.path.read_bytes().split(b"\n")
        kept: list[tuple[bytes, dict[str, Any]]] = []
        for line in lines[:-1]:
            record = _parsed(line)
            if record is not None and all(name in record for name in self._fields):
                kept.append((line, record))
        if lines[-1] or len(kept) != len(lines) - 1:
            write_atomically(self.path, b"".join(line + b"\n" for line, _ in kept))
        return [record for _, record in kept]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; none where there is no file."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [record for line in lines if (record := _parsed(line)) is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


class ProgressFile:
    """``progress.json``: {"phase", "done", "total", "message"}, always whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done = self.total = 0

    def tell(self, phase: str, done: int | None = None, message: str = "") -> None:
        self.done = self.done if done is None else done
        text = json.dumps({"phase": phase, "done": self.done, "total": self.total, "message": message})
        write_atomically(self._path, text.encode())


def read_progress(path: Path) -> dict[str, Any] | None:
    """What the child told last; None where it told nothing yet."""
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
