"""What every benchmark shares: sides in turn within one run, a table, and one JSON object as the last line.

``python -m bench.<name>`` exits with 0 when every ``must`` holds, with 1 when one does not, and with 2 when it could not run
(the reason is on stderr, and no JSON is printed). QUICK=1 is a smaller form that ends within a minute.
"""

from __future__ import annotations

import json
import os
import platform
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
    value: float
    unit: str
    must: str | None
    """Such as ">= 1"; None where nothing is promised."""
    holds: bool
    """True as well where nothing is promised."""
    median: float
    min: float
    max: float
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
    told = median if value is None else value
    must, holds = None, True
    if at_least is not None:
        must, holds = f">= {at_least:g}", told >= at_least
    elif at_most is not None:
        must, holds = f"<= {at_most:g}", told <= at_most
    return Row(
        name=name,
        value=told,
        unit=unit,
        must=must,
        holds=holds,
        median=median,
        min=min(samples),
        max=max(samples),
        n=len(samples),
    )


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
        "commit": _commit(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "rows": [asdict(each) for each in rows],
    }
    print(json.dumps(told), flush=True)
    return HOLDS if all(each.holds for each in rows) else FAILS


def table(rows: Sequence[Row]) -> str:
    head = ("name", "value", "unit", "must", "holds", "median", "min", "max", "n")
    lines = [head, *(_cells(each) for each in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cells(each: Row) -> tuple[str, ...]:
    holds = "" if each.must is None else "yes" if each.holds else "NO"
    numbers = [f"{number:.4g}" for number in (each.value, each.median, each.min, each.max)]
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
