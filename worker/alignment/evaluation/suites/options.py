"""Values of options, read into one form each; what is wrong is noted in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.alignment.evaluation.suites.problems import Notes, nearest

MAX_VALUES = 200
Reader = Callable[[Any, Notes, str], Any]
"""Value, where to note what is wrong, the option's name -> the value in its one form."""


def text(value: Any, notes: Notes, name: str) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        notes.add(name, "Must be a text that is not empty.")
    return value


def texts(value: Any, notes: Notes, name: str) -> Any:
    values = value if isinstance(value, list) else [value]
    if not 0 < len(values) <= MAX_VALUES:
        notes.add(name, f"Must be 1 to {MAX_VALUES} texts.")
        return []
    return [text(item, notes, f"{name}[{i}]" if isinstance(value, list) else name) for i, item in enumerate(values)]


def flag(value: Any, notes: Notes, name: str) -> Any:
    if not isinstance(value, bool):
        notes.add(name, "Must be true or false.")
    return value


def number(low: float | None = None, high: float | None = None) -> Reader:
    def read(value: Any, notes: Notes, name: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e300:
            notes.add(name, "Must be a number.")
            return None
        if (low is not None and value < low) or (high is not None and value > high):
            notes.add(name, f"Must be {_range(low, high)}, not {value:g}.")
        return float(value)

    return read


def integer(low: int, high: int) -> Reader:
    def read(value: Any, notes: Notes, name: str) -> Any:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            notes.add(name, "Must be a whole number.")
            return None
        if not low <= value <= high:
            notes.add(name, f"Must be {_range(low, high)}{f', not {value}' if abs(value) < 1e18 else ''}.")
            return None
        return value

    return read


def one_of(*known: str) -> Reader:
    def read(value: Any, notes: Notes, name: str) -> Any:
        if value not in known:
            notes.add(name, f"{short(value)} is not known{nearest(str(value), known)}.")
        return value

    return read


def short(value: Any) -> str:
    told = str(value)
    return told if len(told) <= 60 else told[:57] + "…"


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
