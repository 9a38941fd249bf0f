"""What is wrong with a suite, all of it at once, each with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

Source = Literal["header", "samples"]
MAX_PROBLEMS = 200
"""Reading stops here: a file of another kind has as many problems as lines."""


@dataclass(frozen=True, slots=True)
class Problem:
    line: int | None
    """1 … in its source; None where there is no text to point at."""
    field: str
    """Such as ``checks[0].value``; "" is the line as a whole."""
    message: str
    source: Source = "samples"

    def __str__(self) -> str:
        place = f"{self.source} line {self.line}" if self.line else self.source
        return f"{place}: {self.field + ': ' if self.field else ''}{self.message}"


class SuiteError(Exception):
    """A suite that cannot be read; ``problems`` holds at least one, in the order of the text."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems[:5]))


def _nowhere(_path: str) -> int | None:
    return None


@dataclass(slots=True)
class Notes:
    """Collects the problems of one place; ``under`` speaks of a part of it."""

    problems: list[Problem]
    source: Source
    line_of: Callable[[str], int | None] = _nowhere
    path: str = ""

    def add(self, name: str, message: str) -> None:
        path = join(self.path, name)
        self.problems.append(Problem(self.line_of(path), path, message, self.source))

    def under(self, name: str) -> Notes:
        return Notes(self.problems, self.source, self.line_of, join(self.path, name))


@dataclass(slots=True)
class Lines:
    """Where each part of a YAML text stands."""

    by_path: dict[str, int] = field(default_factory=dict)

    def __call__(self, path: str) -> int | None:
        """The line of the part, or of the nearest part around it."""
        while path not in self.by_path:
            if not path:
                return None
            cut = max(path.rfind("."), path.rfind("["))
            path = path[: max(cut, 0)]
        return self.by_path[path]


def join(path: str, name: str) -> str:
    if not path or not name or name.startswith("["):
        return path + name
    return f"{path}.{name}"


def nearest(name: str, known: Iterable[str]) -> str:
    """“; did you mean x?”, or what there is to choose from when nothing is near."""
    names = sorted(known)
    close = get_close_matches(name[:80].lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(names)}"
