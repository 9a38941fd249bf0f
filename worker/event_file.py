"""Follows an attempt's events.jsonl: whole lines only, from where it stopped."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from worker.alignment.events import Event

log = logging.getLogger(__name__)

MAX_BATCH = 500
READ_BYTES = 4 * 2**20


class EventFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def read(self) -> list[Event]:
        """The lines that are new since the last call, at most MAX_BATCH; a last line without its end is waited for."""
        lines = self._rest.split(b"\n")
        if len(lines) <= MAX_BATCH:
            lines = (self._rest + self._more()).split(b"\n")
        taken, self._rest = lines[:-1][:MAX_BATCH], b"\n".join([*lines[:-1][MAX_BATCH:], lines[-1]])
        events = [parse(line) for line in taken if line.strip()]
        return [event for event in events if event is not None]

    def _more(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(READ_BYTES)
        except FileNotFoundError:
            return b""
        self._offset += len(data)
        return data


def parse(line: bytes) -> Event | None:
    """None for a line that is no event: logged, since the rest of the file still counts."""
    try:
        data = json.loads(line, parse_constant=lambda _: None)
        return Event(
            seq=int(data["seq"]),
            kind=data["kind"],
            step=int(data["step"]),
            at=str(data["at"]),
            data=_storable(data["data"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        log.warning("A line of the event file was skipped: %s: %r", error, line[:200])
        return None


def _storable(value: Any) -> Any:
    """PostgreSQL takes no NUL in text."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {str(key): _storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    return value
