"""Categories by checkpoints: heat map, strip of one category, its scale, and the balance of labels over categories."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from app.web.formats import num, signed
from app.web.svg.draw import coord, line, picture, polyline, rect, text

EDGES = (0.011, 0.024, 0.040, 0.064)
_BINS = ("n4", "n3", "n2", "n1", "0", "p1", "p2", "p3", "p4")
_GAP = 5
_WIDEST = 64
"""Pixels of a column where there are few."""
_LABEL_ROOM = 22
"""Pixels from one row's label to the next."""


@dataclass(frozen=True)
class HeatCategory:
    """One column: values per checkpoint, oldest first, up = more alike, on the scale of a change of similarity; None where
    not evaluated.
    """

    name: str
    domain: str
    changes: tuple[float | None, ...]
    alarm: bool = False
    dimmed: bool = False
    """A search is on and does not find it."""


@dataclass(frozen=True)
class HeatBlock:
    """The columns of one domain, side by side from ``x``."""

    domain: str
    x: float
    columns: tuple[HeatCategory, ...]


@dataclass(frozen=True)
class HeatLayout:
    """Where everything stands, in the picture's own units: pixels at the drawn width."""

    blocks: tuple[HeatBlock, ...]
    num_rows: int
    cell: float
    """Width of a column."""
    row: int
    """Height of a row; its last pixel is empty."""
    left: int
    width: int
    top: int = 16

    @property
    def bottom(self) -> int:
        return self.top + self.num_rows * self.row


def heat_bin(change: float | None) -> str:
    """Class of a cell: ``hm-n4`` (more varied) to ``hm-p4`` (more alike), ``hm-none`` where not evaluated."""
    return "hm-none" if change is None else f"hm-{_BINS[_level(change) + 4]}"


def _level(change: float) -> int:
    """The bin as a number, -4 to 4."""
    return bisect_right(EDGES, change) if change >= 0 else -bisect_left(EDGES, -change)


def heat_layout(categories: Sequence[HeatCategory], num_rows: int, *, width: int = 1040, left: int = 48) -> HeatLayout:
    """Blocks of domains in the order given, 5 px between them, inside a domain the columns in the order given."""
    by_domain: dict[str, list[HeatCategory]] = {}
    for category in categories:
        by_domain.setdefault(category.domain, []).append(category)
    room = width - left - _GAP * max(len(by_domain) - 1, 0)
    cell = min(room / max(len(categories), 1), _WIDEST)
    blocks, x = [], float(left)
    for domain, columns in by_domain.items():
        blocks.append(HeatBlock(domain, x, tuple(columns)))
        x += cell * len(columns) + _GAP
    return HeatLayout(tuple(blocks), num_rows, cell, _row_height(num_rows), left, width)


def heat_map(
    categories: Sequence[HeatCategory],
    steps: Sequence[int],
    *,
    width: int = 1040,
    left: int = 48,
    bold: Sequence[str] = (),
    what: str = "Change of similarity",
) -> Markup:
    """A column per category, a row per checkpoint, time downwards; one path per bin with runs merged; notches over alarmed
    domains; the names of ``bold`` domains in ink.

    Raises ValueError when a category has not one change per step.
    """
    for category in categories:
        if len(category.changes) != len(steps):
            raise ValueError(f"{category.name} has {len(category.changes)} changes for {len(steps)} checkpoints.")
    layout = heat_layout(categories, len(steps), width=width, left=left)
    names, num_lines = _domain_names(layout, bold)
    every = max(1, math.ceil(_LABEL_ROOM / layout.row))
    labels = [
        text(left - 6, layout.top + row * layout.row + layout.row / 2 + 3.5, num(step), "end")
        for row, step in enumerate(steps)
        if (len(steps) - 1 - row) % every == 0
    ]
    alarmed = sum(c.alarm for c in categories)
    label = f"{what} in {num(len(categories))} categories at {len(steps)} checkpoints; {num(alarmed)} with an alarm"
    parts = [*_cells(layout), *_veil(layout), *_notches(layout), *labels, *names]
    return picture(width, layout.bottom + 5 + 13 * num_lines, label, parts)


def _cells(layout: HeatLayout) -> list[str]:
    """One path per bin, the weak bins below the strong ones: a run of a bin lies on the wider run of the bin before it, and
    the neutral one is a single bar per block and row. So most runs need not be drawn at all.
    """
    paths: dict[str, list[str]] = defaultdict(list)
    for block in layout.blocks:
        for row in range(layout.num_rows):
            values = [column.changes[row] for column in block.columns]
            levels = [None if value is None else _level(value) for value in values]
            y = layout.top + row * layout.row
            for css, start, count in _runs(levels):
                paths[css].append(_bar(layout, block, start, count, y, layout.row - 1))
    return [f'<path class="{css} crisp" d="{"".join(pieces)}"/>' for css, pieces in sorted(paths.items())]


def _runs(levels: Sequence[int | None]) -> Iterator[tuple[str, int, int]]:
    """(bin, start, count) to be painted one over the other, weak bins first."""
    for css, known in (("hm-0", True), ("hm-none", False)):
        for start, count in _where([(level is not None) == known for level in levels]):
            yield css, start, count
    for side, sign in (("p", 1), ("n", -1)):
        depths = [sign * (level or 0) for level in levels]
        for depth in range(1, 5):
            for start, count in _where([found >= depth for found in depths]):
                if depth in depths[start : start + count]:  # else a stronger bin covers it whole
                    yield f"hm-{side}{depth}", start, count


def _where(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """(start, count) of every unbroken run of True."""
    start = 0
    for flag, group in groupby(flags):
        count = len(list(group))
        if flag:
            yield start, count
        start += count


def _bar(layout: HeatLayout, block: HeatBlock, start: int, count: int, y: int, height: int) -> str:
    """Two decimals, since a column is about one and a half pixels wide."""
    run = _fine(layout.cell * count)
    return f"M{_fine(block.x + layout.cell * start)} {y}h{run}v{height}h-{run}z"


def _veil(layout: HeatLayout) -> list[str]:
    """Over the columns that a search does not find."""
    height = layout.bottom - layout.top
    pieces = [
        _bar(layout, block, start, count, layout.top, height)
        for block in layout.blocks
        for start, count in _where([column.dimmed for column in block.columns])
    ]
    return [f'<path class="hm-veil" d="{"".join(pieces)}"/>'] if pieces else []


def _notches(layout: HeatLayout) -> list[str]:
    """Over every block with an alarm, a black notch and their number."""
    parts = []
    for block in layout.blocks:
        alarms = sum(column.alarm for column in block.columns)
        if alarms:
            parts.append(f'<path class="f-ink" d="M{coord(block.x)} 4h8l-4 7z"/>')
            parts.append(text(block.x + 11, 11, str(alarms), "t-ink t-b"))
    return parts


def _fine(value: float) -> str:
    """Two decimals: a column is about one and a half pixels wide."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _row_height(num_rows: int) -> int:
    """Pixels of a row: few checkpoints get taller ones."""
    return next(height for most, height in ((4, 26), (8, 18), (20, 13), (40, 9), (10**9, 6)) if num_rows <= most)


def _domain_names(layout: HeatLayout, bold: Sequence[str]) -> tuple[list[str], int]:
    """Names under the middle of their blocks, on as few of three lines as they need; a name that fits on none is left out."""
    ends = [-1.0] * 3
    parts: list[str] = []
    used = 1
    for block in layout.blocks:
        room = len(block.domain) * 5.8  # about the width of a character at 11 px
        middle = block.x + layout.cell * len(block.columns) / 2
        start = max(min(middle - room / 2, layout.width - room), 0.0)
        at = next((index for index, end in enumerate(ends) if start >= end), None)
        parts.append(
            line(
                block.x, layout.bottom + 1.5, block.x + layout.cell * len(block.columns), layout.bottom + 1.5, "axis-l"
            )
        )
        if at is None:
            continue
        ends[at] = start + room + 8
        used = max(used, at + 1)
        y = layout.bottom + 14 + 13 * at
        if at:
            parts.append(line(middle, layout.bottom + 4, middle, y - 10, "mark-l"))
        parts.append(text(start, y, block.domain, "t-ink" if block.domain in bold else ""))
    return parts, used


def cell_strip(changes: Sequence[float | None], label: str) -> Markup:
    """One category over the checkpoints in readable cells of 12 by 18 px."""
    cells = [
        rect(index * 13, 0, 12, 18, heat_bin(change), 2, "not evaluated" if change is None else signed(change))
        for index, change in enumerate(changes)
    ]
    return picture(max(len(changes), 1) * 13, 18, label, cells, "cellstrip")


def heat_scale() -> Markup:
    """The nine bins, from more varied to more alike."""
    cells = [rect(index * 20, 0, 19, 10, f"hm-{name}", 2) for index, name in enumerate(_BINS)]
    return picture(180, 10, "From more varied than the reference to more alike", cells, "scale")


def balance(
    shares: Sequence[float], *, only_desirable: int, only_undesirable: int, width: int = 460, height: int = 160
) -> Markup:
    """All categories sorted by desirable share: blue below the line, vermilion above; counts of one-sided ones at the ends."""
    ordered = sorted(shares)
    left, right, top, bottom = 44.0, width - 4.0, 16.0, height - 22.0
    parts: list[str] = []
    if ordered:
        step = (right - left) / len(ordered)
        edge = [
            point
            for index, share in enumerate(ordered)
            for point in (
                (left + index * step, bottom - share * (bottom - top)),
                (left + (index + 1) * step, bottom - share * (bottom - top)),
            )
        ]
        parts.append(rect(left, top, right - left, bottom - top, "f-und-soft"))
        parts.append(polyline([(left, bottom), *edge, (right, bottom)], "f-des-soft"))
        parts.append(polyline(edge, "ln s-surface"))
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        parts += [
            line(left, y, right, y, "axis-l" if share == 0 else "grid-l"),
            text(left - 6, y + 4, f"{share * 100:.0f} %", "end"),
        ]
    parts += [
        text(left, height - 6, f"{num(only_undesirable)} only undesirable"),
        text(right, height - 6, f"{num(only_desirable)} only desirable", "end"),
    ]
    label = (
        f"Desirable share of {num(len(ordered))} categories, sorted; {num(only_undesirable)} have only undesirable labels, "
        f"{num(only_desirable)} only desirable ones"
    )
    return picture(width, height, label, parts)
