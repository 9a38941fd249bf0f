"""A shelf on disk for files whose parts refer to each other: scores and traces, answers and questions. Memory stays flat."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any, Self


class Shelf:
    """An unnamed temporary SQLite file: gone when it is closed, or when the process ends."""

    def __enter__(self) -> Self:
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("CREATE TABLE kept (kind TEXT, key TEXT, body TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID")
        self._file.execute("CREATE TABLE later (line INTEGER, body TEXT)")
        self._file.execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, kind: str, key: str, value: Any) -> None:
        body = json.dumps(value)
        self._file.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (kind, key, body))

    def get(self, kind: str, key: str) -> Any:
        """None where there is none."""
        found = self._file.execute("SELECT body FROM kept WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return json.loads(found[0]) if found else None

    def put_later(self, line: int, value: Any) -> None:
        """To be looked at when everything is on the shelf."""
        self._file.execute("INSERT INTO later VALUES (?, ?)", (line, json.dumps(value)))

    def later(self) -> Iterator[tuple[int, Any]]:
        """In the order in which they came."""
        for line, body in self._file.execute("SELECT line, body FROM later ORDER BY rowid"):
            yield line, json.loads(body)
