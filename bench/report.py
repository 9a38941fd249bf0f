"""What every benchmark shares: sides in turn within one run, a table, and one JSON object as the last line.

``python -m bench.<name>`` exits with 0 when every ``must`` holds, with 1 when one does not, and with 2 when it could not run
(the reason is on stderr, and no JSON is printed). QUICK=1 is a smaller form that ends within a minute.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

HOLDS, FAILS, COULD_NOT_RUN = 0, 1, 2


class CannotRunError(Exception):
    """This machine lacks what the benchmark needs; the text names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result. ``value`` is what ``must`` speaks of; median, min and max are of all n samples."""

    name: str
    value: float | None
    """None: it was not run here."""
    unit: str
    must: str | None
    """Such as ">= 1"; None where nothing is promised."""
    holds: bool | None
    """True as well where nothing is promised; None where it was not run."""
    median: float | None
    min: float | None
    max: float | None
    n: int


def row(
    name: str,
    unit: str,
    samples: Sequence[float],
    *,
    value: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """``value`` is the median unless given (a 95th percentile, a total). At most one bound; NaN holds none."""
    median = statistics.median(samples)
    told = float(median if value is None else value)  # numpy's numbers are no JSON
    holds = bool(told >= at_least if at_least is not None else at_most is None or told <= at_most)
    return Row(
        name=name,
        value=told,
        unit=unit,
        must=_must(at_least, at_most),
        holds=holds,
        median=float(median),
        min=float(min(samples)),
        max=float(max(samples)),
        n=len(samples),
    )


def ratio_of_sums(
    name: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """The ratio of the totals, so that a long batch weighs as much as it takes; the samples are each round's own ratio."""
    told = sum(above) / sum(below)
    return row(name, "x", ratios(above, below), value=told, at_least=at_least, at_most=at_most)


def not_run(name: str, unit: str, *, at_least: float | None = None, at_most: float | None = None) -> Row:
    """A row whose side is missing on this machine: its promise neither holds nor fails."""
    return Row(
        name=name,
        value=None,
        unit=unit,
        must=_must(at_least, at_most),
        holds=None,
        median=None,
        min=None,
        max=None,
        n=0,
    )


def _must(at_least: float | None, at_most: float | None) -> str | None:
    if at_least is not None:
        return f">= {at_least:g}"
    return None if at_most is None else f"<= {at_most:g}"


def interleave(
    sides: Mapping[str, Callable[[int], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every side in every round: each gets the round's number, and who goes first changes with the round.

    Round -1 comes first and is not counted: it warms caches and allocators of every side.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(-1, rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            began = clock()
            sides[name](number)
            spent = clock() - began
            if number >= 0:
                seconds[name].append(spent)
    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, so that a slow minute of the machine falls on both sides."""
    return [a / b for a, b in zip(above, below, strict=True)]


def percentile(samples: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest sample that at least ``share`` of all do not exceed."""
    rank = max(1, -int(-share * len(samples) // 1))
    return sorted(samples)[rank - 1]


def main(bench: str, measure: Callable[[bool], Sequence[Row]], *, packages: Sequence[str] = ()) -> int:
    """Run ``measure(quick)``, print its rows; returns the exit code."""
    try:
        rows = measure(os.environ.get("QUICK", "") not in ("", "0"))
    except CannotRunError as error:
        print(f"bench.{bench} could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    except Exception as error:
        traceback.print_exc()
        print(f"bench.{bench} could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    print(table(rows))
    told = {
        "bench": bench,
        "command": shlex.join(["python", "-m", f"bench.{bench}", *sys.argv[1:]]),
        "commit": _commit(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "rows": [asdict(each) for each in rows],
    }
    print(json.dumps(told), flush=True)
    return FAILS if any(each.holds is False for each in rows) else HOLDS


def table(rows: Sequence[Row]) -> str:
    head = ("name", "value", "unit", "must", "holds", "median", "min", "max", "n")
    lines = [head, *(_cells(each) for each in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cells(each: Row) -> tuple[str, ...]:
    if each.value is None:
        return (each.name, "not run", each.unit, each.must or "", "", "", "", "", "0")
    holds = "" if each.must is None else "yes" if each.holds else "NO"
    numbers = [f"{number:.4g}" for number in (each.value, each.median, each.min, each.max) if number is not None]
    return (each.name, numbers[0], each.unit, each.must or "", holds, *numbers[1:], str(each.n))


def _commit() -> str:
    """The commit, with -dirty where files differ from it; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).resolve().parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"
