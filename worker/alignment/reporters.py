"""Writes the attempt's events as JSON lines (see events.py): free of torch, one writer per attempt."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from worker.alignment.events import Event, EventKind, Notice, Progress

DURABLE: frozenset[EventKind] = frozenset(
    {"checkpoint_saved", "checkpoint_removed", "evaluation_finished", "run_finished"}
)
"""These must outlive a power cut once told: a checkpoint nobody knows of is lost work."""


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class JsonlReporter:
    """Appends events with a gapless ``seq`` from 1. Raises FileExistsError where the attempt already has events."""

    def __init__(self, path: Path, *, now: Callable[[], str] = utc_now) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("x", encoding="utf-8", buffering=1)  # line-buffered: a reader sees whole lines at once
        self._now = now
        self._seq = 0
        self.last_step = 0
        """The newest step that was told of."""
        self._progress_at = 0.0
        self._phase = ""
        self._lock = threading.Lock()
        """The failure of another process is told from a thread of its own."""

    def emit(self, kind: EventKind, step: int, data: Any) -> Event:
        """Write one event. ``data`` is an events.py dataclass or a dict; non-finite metrics are left out."""
        values = asdict(data) if is_dataclass(data) and not isinstance(data, type) else dict(data)
        if kind == "metrics":
            values = {key: value for key, value in values.items() if math.isfinite(value)}
        with self._lock:
            event = Event(seq=self._seq + 1, kind=kind, step=step, at=self._now(), data=values)
            line = json.dumps(
                event.to_json(), ensure_ascii=False, allow_nan=False
            )  # before seq moves: no gap on a bad value
            self._file.write(line + "\n")
            self._seq = event.seq
            self.last_step = max(self.last_step, step)
            if kind in DURABLE:
                self._file.flush()
                os.fsync(self._file.fileno())
            return event

    def notice(self, text: str, *, step: int = 0, warning: bool = False, **detail: Any) -> None:
        self.emit("warning" if warning else "notice", step, Notice(text=text, detail=detail))

    def progress(self, progress: Progress, *, step: int = 0) -> None:
        """Tell how far a phase is, at most once a second unless the phase begins or ends."""
        now = time.monotonic()
        edge = progress.phase != self._phase or progress.done >= progress.total
        if edge or now - self._progress_at >= 1.0:
            self._phase, self._progress_at = progress.phase, now
            self.emit("progress", step, progress)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()


class SilentReporter(JsonlReporter):
    """Of a process that is not the first of its run: it has nothing to tell that rank 0 does not tell too."""

    def __init__(self) -> None:
        self.last_step = 0

    def emit(self, kind: EventKind, step: int, data: Any) -> Event:  # noqa: ARG002 - as its parent's
        return Event(seq=0, kind=kind, step=step, at="", data={})

    def progress(self, progress: Progress, *, step: int = 0) -> None:
        pass

    def close(self) -> None:
        pass
