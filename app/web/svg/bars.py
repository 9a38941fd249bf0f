"""Bars: days mirrored on zero, shares, length histograms, device memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from markupsafe import Markup

from app.web.formats import num, pct
from app.web.svg.draw import line, nice_ticks, picture, rect, text


@dataclass(frozen=True)
class Day:
    day: date
    desirable: int
    undesirable: int


def share_bar(desirable: int, undesirable: int, *, of: int | None = None, width: int = 400) -> Markup:
    """One bar, blue from the left, vermilion after it, 2 px apart. ``of``: the count that would fill the whole width."""
    total = desirable + undesirable
    label = f"{num(desirable)} desirable, {num(undesirable)} undesirable"
    if not total:
        return picture(width, 8, "No labels", [rect(0, 0, width, 8, "f-selected")], "bar-svg", stretch=True)
    gap = 2 if desirable and undesirable else 0
    drawn = max(width * total / max(of or total, total), 4)
    left = (drawn - gap) * desirable / total
    bars = [rect(0, 0, left, 8, "f-des"), rect(left + gap, 0, drawn - left - gap, 8, "f-und")]
    return picture(width, 8, f"{label}: {pct(desirable / total)} desirable", bars, "bar-svg", stretch=True)


def _mirrored(
    columns: Sequence[tuple[int, int, str]], *, left: int, top: int, right: float, bottom: float, touching: bool = False
) -> tuple[list[str], float]:
    """Grid, bars (desirable above zero, undesirable below) and the y of zero."""
    up = max((above for above, _, _ in columns), default=0) or 1
    down = max((below for _, below, _ in columns), default=0) or 1
    scale = (bottom - top) / (up + down)
    zero = top + up * scale
    parts = []
    for tick in nice_ticks(-down, up, 4):
        if tick and tick == int(tick):  # these are counts
            y = zero - tick * scale
            parts += [line(left, y, right, y, "grid-l"), text(left - 6, y + 4, num(int(abs(tick))), "end")]
    slot = (right - left) / max(len(columns), 1)
    bar = max(slot - 2 if touching else min(slot * 0.72, 28), 1)
    for index, (above, below, title) in enumerate(columns):
        x = left + slot * index + (slot - bar) / 2
        if above:
            parts.append(rect(x, zero - above * scale, bar, above * scale - 0.75, "f-des", 1.5, title))
        if below:
            parts.append(rect(x, zero + 0.75, bar, below * scale - 0.75, "f-und", 1.5, title))
    parts.append(line(left, zero, right, zero, "axis-l"))
    return parts, slot


def daily_bars(days: Sequence[Day], *, width: int = 760, height: int = 260) -> Markup:
    """Ratings per day, oldest first; dates count back from the newest day, which always has its own."""
    columns = [
        (d.desirable, d.undesirable, f"{d.day:%-d %b}: {num(d.desirable)} desirable, {num(d.undesirable)} undesirable")
        for d in days
    ]
    left, right, bottom = 44, width - 4, height - 22
    parts, slot = _mirrored(columns, left=left, top=8, right=right, bottom=bottom)
    wanted = len(days) / max(width // 110, 2)
    every = next((step for step in (1, 2, 7, 14) if step >= wanted), 28)
    parts += [
        text(left + slot * (index + 0.5), height - 5, f"{d.day:%-d %b}", "mid")
        for index, d in enumerate(days)
        if (len(days) - 1 - index) % every == 0
    ]
    above, below = sum(d.desirable for d in days), sum(d.undesirable for d in days)
    label = f"Ratings of {len(days)} days: {num(above)} desirable above the line, {num(below)} undesirable below it"
    return picture(width, height, label, parts)


def histogram(
    edges: Sequence[float],
    desirable: Sequence[int],
    undesirable: Sequence[int],
    *,
    unit: str,
    medians: tuple[float | None, float | None] = (None, None),
    width: int = 460,
    height: int = 180,
) -> Markup:
    """Counts per bin of equal width, mirrored on zero; the median of each class as an ink line.

    ``edges`` has one element more than each of the counts, else ValueError.
    """
    if not len(edges) - 1 == len(desirable) == len(undesirable):
        raise ValueError(f"{len(edges)} edges do not fit {len(desirable)} and {len(undesirable)} bins.")
    columns = [
        (up, down, f"{num(edges[i])} to {num(edges[i + 1])} {unit}: {num(up)} desirable, {num(down)} undesirable")
        for i, (up, down) in enumerate(zip(desirable, undesirable, strict=True))
    ]
    left, right = 44, width - 12
    top, bottom = 20, height - 36
    parts, slot = _mirrored(columns, left=left, top=top, right=right, bottom=bottom, touching=True)
    up, down = max([1, *desirable]), max([1, *undesirable])
    zero = top + up * (bottom - top) / (up + down)
    for median, end, y in ((medians[0], top - 4, top - 7), (medians[1], bottom + 4, bottom + 13)):
        if median is not None:
            x = left + (right - left) * min((median - edges[0]) / ((edges[-1] - edges[0]) or 1), 1)
            parts += [line(x, zero, x, end, "s-ink", 1.25), text(x + 4, y + 2, f"median {num(round(median))}", "t-2")]
    every = max(1, round(len(columns) / max(width // 90, 2)))
    parts += [
        text(left + slot * index, height - 5, num(edge), "mid")
        for index, edge in enumerate(edges)
        if index % every == 0
    ]
    label = f"Length in {unit}: {num(sum(desirable))} desirable above the line, {num(sum(undesirable))} undesirable below it"
    return picture(width, height, label, parts)


def memory_bar(
    parts: Sequence[tuple[str, float]], total: float, *, limit: float = 0.92, unit: str = "GiB", width: int = 358
) -> Markup:
    """Stacked use of one device in ``unit``; an ink tick at the sum, a thin one at ``limit`` of the total."""
    used = sum(size for _, size in parts)
    scale = width / max(total, used, 1e-9)
    drawn = [rect(0, 0, total * scale, 14, "f-selected", 3)]
    x = 0.0
    for index, (name, size) in enumerate(parts):
        drawn.append(
            rect(x, 0, max(size * scale - 1, 0.5), 14, f"mem-{min(index + 1, 5)}", 0, f"{name}: {num(size, 1)} {unit}")
        )
        x += size * scale
    drawn += [line(x, -3, x, 17, "s-ink", 1.5), line(total * limit * scale, -3, total * limit * scale, 17, "axis-l")]
    label = f"{num(used, 1)} of {num(total, 1)} {unit}; limit line at {pct(limit, 0)}"
    return picture(width, 20, label, drawn, "membar")
