"""How far an import is, for its page and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.models import Import

_MIN_SHARE = 0.02


@dataclass(frozen=True)
class Progress:
    step: str
    """queued, checking, publishing."""
    share: float
    """Of this step, 0 to 1."""
    rate: float | None
    """Rows a second since the start."""
    seconds_left: float | None
    """Of this step, by its share of the time so far; None while that says nothing."""
    is_stopping: bool = False


_LOOKS = {"succeeded": "ok", "failed": "bad"}


def status_words(entry: Import, now: datetime) -> tuple[str, str]:
    """What a list says of it, and the look of a state: checking 42 %, live."""
    if entry.status == "draft":
        return "not started", ""
    if entry.status not in ("queued", "staging", "publishing"):
        return entry.status, _LOOKS.get(entry.status, "")
    if entry.cancel_requested:
        return "stopping", "warn"
    told = progress(entry, now)
    return (told.step, "") if told.step == "queued" else (f"{told.step} {int(told.share * 100)} %", "live")


def progress(entry: Import, now: datetime) -> Progress:
    stopping = entry.cancel_requested
    spent = (now - entry.started_at).total_seconds() if entry.started_at else 0.0
    if entry.status == "queued":
        return Progress("queued", 0.0, None, None, stopping)
    if entry.status == "publishing":
        return Progress(
            "publishing", _share(entry.num_published, entry.num_rows - entry.num_rejected), None, None, stopping
        )
    share = _share(entry.bytes_read, entry.size_bytes)
    rate = entry.num_rows / spent if spent > 1 and entry.num_rows else None
    left = spent * (1 - share) / share if share > _MIN_SHARE and spent > 1 else None
    return Progress("checking", share, rate, left, stopping)


def _share(done: int, total: int) -> float:
    return min(done / total, 1.0) if total > 0 else 0.0
