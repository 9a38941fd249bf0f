"""What counts as a thumb."""

from __future__ import annotations

from typing import Any

_UP = {"up", "true", "1", "+1", "thumbs_up", "thumbsup", "like", "desirable", "positive", "good", "yes", "👍"}
_DOWN = {
    "down",
    "false",
    "0",
    "-1",
    "thumbs_down",
    "thumbsdown",
    "dislike",
    "undesirable",
    "negative",
    "bad",
    "no",
    "👎",
}
ACCEPTED = 'true, false, 1, 0, -1, "up", "down", "thumbs_up", "thumbs_down", "desirable" or "undesirable"'


def parse_label(value: Any) -> bool:
    """True for a thumb up. Raises ValueError that says what is accepted."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (1, 0, -1):
        return value == 1
    if isinstance(value, str):
        word = value.strip().lower().replace("-", "_") if len(value) > 2 else value.strip().lower()
        if word in _UP:
            return True
        if word in _DOWN:
            return False
    shown = repr(value)
    raise ValueError(f"{shown if len(shown) <= 40 else shown[:37] + '…'} is no label; accepted are {ACCEPTED}")
