"""What an importer makes of a file: raw samples, and what it had to leave out and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.alignment.evaluation.suites.problems import Problem, SuiteError


@dataclass(frozen=True, slots=True)
class Skipped:
    line: int | None
    item: str
    """What it is in the file: an id, an assertion's type."""
    reason: str

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else ""
        return f"{', '.join(part for part in (place, self.item) if part)}: {self.reason}"


@dataclass(slots=True)
class Draft:
    """Not yet checked: plain data as ``parse_suite`` takes it."""

    header: dict[str, Any] = field(default_factory=dict)
    samples: list[tuple[int | None, dict[str, Any]]] = field(default_factory=list)
    """Line in the file, and the sample."""
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, line: int | None, sample: Mapping[str, Any]) -> None:
        self.samples.append((line, {key: value for key, value in sample.items() if value is not None}))

    def skip(self, line: int | None, item: Any, reason: str) -> None:
        told = "" if item is None else str(item)
        self.skipped.append(Skipped(line, told[:80], reason))

    def note(self, words: str) -> None:
        if words not in self.notes:
            self.notes.append(words)


def refused(message: str) -> SuiteError:
    return SuiteError([Problem(None, "", message)])


class RowError(ValueError):
    """Why a row cannot become a sample, in words."""


def messages_of(value: Any) -> Any:
    """Chat messages with role and content alone. Raises RowError for what a text model cannot be shown."""
    if not isinstance(value, list):
        if not isinstance(value, str):
            raise RowError("The input is neither a text nor chat messages.")
        return value
    if not value:
        raise RowError("The input has no message.")
    return [_message(item) for item in value]


def _message(item: Any) -> dict[str, str]:
    if not isinstance(item, dict):
        raise RowError("A message is not a mapping.")
    role = "system" if item.get("role") == "developer" else item.get("role")
    content = item.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise RowError("A message holds an image, sound or file; only texts are drawn here.")
        content = "\n".join(part["text"] for part in content)
    if role not in ("system", "user", "assistant") or item.get("tool_calls"):
        raise RowError("A message is of a tool; only system, user and assistant are drawn here.")
    return {"role": role, "content": content if isinstance(content, str) else ""}


def texts_of(value: Any) -> list[str]:
    """A text or a list of them as a list; numbers are told in digits."""
    given = value if isinstance(value, list) else [value]
    return [str(item) for item in given if isinstance(item, (str, int, float)) and str(item).strip()]


def category_of(*places: Any) -> str | None:
    """The first category, subject or subset that the mappings name."""
    for place in places:
        if isinstance(place, dict):
            for name in ("category", "subject", "subset", "topic"):
                if isinstance(place.get(name), str) and place[name].strip():
                    return str(place[name]).strip()[:100]
    return None
