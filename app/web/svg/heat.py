"""Categories by checkpoints: heat map, strip of one category, its scale, and the balance of labels over categories."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from app.web.formats import num, signed
from app.web.svg.draw import coord, line, picture, polyline, rect, text

EDGES = (0.011, 0.024, 0.040, 0.064)
_BINS = ("n4", "n3", "n2", "n1", "0", "p1", "p2", "p3", "p4")
_GAP = 5


@dataclass(frozen=True)
class HeatCategory:
    """Change of similarity against the reference per checkpoint, oldest first; None where not evaluated."""

    name: str
    domain: str
    changes: tuple[float | None, ...]
    alarm: bool = False


def heat_bin(change: float | None) -> str:
    """Class of a cell: ``hm-n4`` (more varied) to ``hm-p4`` (more alike), ``hm-none`` where not evaluated."""
    if change is None:
        return "hm-none"
    index = bisect_right(EDGES, change) if change >= 0 else -bisect_left(EDGES, -change)
    return f"hm-{_BINS[index + 4]}"


def _blocks(categories: Sequence[HeatCategory]) -> list[tuple[str, list[HeatCategory]]]:
    """Domains in the order given; inside a domain the strongest last effect first, so collapse reads as a dark left edge."""
    domains = list(dict.fromkeys(category.domain for category in categories))
    blocks = [(domain, [c for c in categories if c.domain == domain]) for domain in domains]
    for _, block in blocks:
        block.sort(key=lambda c: -(c.changes[-1] if c.changes and c.changes[-1] is not None else 0.0))
    return blocks


def heat_map(categories: Sequence[HeatCategory], steps: Sequence[int], *, width: int = 1040, left: int = 48) -> Markup:
    """A column per category, a row per checkpoint, time downwards; one path per bin with runs merged; notches over alarmed domains.

    Raises ValueError when a category has not one change per step.
    """
    for category in categories:
        if len(category.changes) != len(steps):
            raise ValueError(f"{category.name} has {len(category.changes)} changes for {len(steps)} checkpoints.")
    blocks = _blocks(categories)
    cell = (width - left - _GAP * max(len(blocks) - 1, 0)) / max(len(categories), 1)
    top, height = 16, _row_height(len(steps))
    paths: dict[str, list[str]] = defaultdict(list)
    parts: list[str] = []
    names: list[tuple[str, float]] = []
    x0 = float(left)
    for domain, block in blocks:
        for row in range(len(steps)):
            x = x0
            for css, group in groupby(heat_bin(c.changes[row]) for c in block):
                run = cell * len(list(group))
                y = top + row * height
                paths[css].append(f"M{coord(x)} {y}h{coord(run)}v{height - 1}h-{coord(run)}z")
                x += run
        alarms = sum(c.alarm for c in block)
        if alarms:
            parts.append(f'<path class="f-ink" d="M{coord(x0)} 4h8l-4 7z"/>')
            parts.append(text(x0 + 11, 11, str(alarms), "t-ink t-b"))
        names.append((domain, x0))
        x0 += cell * len(block) + _GAP
    bottom = top + len(steps) * height
    labels, num_lines = _domain_names(names, bottom, width)
    parts += labels
    parts += [text(left - 6, top + row * height + height / 2 + 3.5, num(step), "end") for row, step in enumerate(steps)]
    drawn = [f'<path class="{css} crisp" d="{"".join(pieces)}"/>' for css, pieces in sorted(paths.items())]
    alarmed = sum(c.alarm for c in categories)
    label = f"Change of similarity in {num(len(categories))} categories at {len(steps)} checkpoints; {num(alarmed)} with an alarm"
    return picture(width, bottom + 5 + 13 * num_lines, label, drawn + parts)


def _row_height(num_rows: int) -> int:
    """Pixels of a row: few checkpoints get taller ones."""
    return 26 if num_rows <= 4 else 18 if num_rows <= 8 else 13


def _domain_names(names: Sequence[tuple[str, float]], bottom: float, width: float) -> tuple[list[str], int]:
    """Names of the blocks at their left edges ``x``, on as few of three lines as they need; a name that fits on none is left out."""
    ends = [-1.0] * 3
    parts: list[str] = []
    used = 1
    for name, x in names:
        room = len(name) * 5.8  # about the width of a character at 11 px
        start = max(min(x, width - room), 0.0)
        at = next((index for index, end in enumerate(ends) if start >= end), None)
        if at is None:
            continue
        ends[at] = start + room + 8
        used = max(used, at + 1)
        y = bottom + 13 * (at + 1)
        if at:
            parts.append(line(x + 0.5, bottom + 2, x + 0.5, y - 9, "mark-l"))
        parts.append(text(start, y, name))
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
