"""Estimates with their intervals: evaluated checkpoints, comparison cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from app.web.formats import interval, num
from app.web.svg.draw import circle, line, nice_ticks, padded, picture, polyline, rect, text


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval at ``x`` (a step)."""

    x: float
    value: float
    low: float
    high: float
    marked: bool = False
    """Filled marker: an alarm, or the best checkpoint."""


def evaluated(
    points: Sequence[Estimate],
    label: str,
    *,
    reference: float | None = None,
    reference_label: str = "reference",
    margin: float | None = None,
    margin_label: str = "margin",
    end: float | None = None,
    cls: str = "kto",
    digits: int = 2,
    width: int = 460,
    height: int = 180,
) -> Markup:
    """Markers with whiskers over steps, joined straight, never smoothed. ``end``: the planned last step, so that the picture does not rescale."""
    levels = [bound for p in points for bound in (p.low, p.high)]
    levels += [level for level in (reference, margin) if level is not None]
    low, high = padded(levels or [0.0, 1.0])
    left, right, top, bottom = 44.0, width - 10.0, 8.0, height - 22.0
    last = max([end or 0, *(p.x for p in points)]) or 1

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (bottom - top)

    def x(step: float) -> float:
        return left + 6 + step / last * (right - left - 12)

    parts, labels = [], []
    for tick in nice_ticks(low, high, 3):
        parts += [line(left, y(tick), right, y(tick), "grid-l"), text(left - 6, y(tick) + 4, num(tick, digits), "end")]
    for level, kind, words in ((reference, "ref-l", reference_label), (margin, "margin-l", margin_label)):
        if level is not None:
            parts.append(line(left, y(level), right, y(level), kind))
            crowded = any(x(p.x) > right - 64 and y(level) - 18 < y(p.value) <= y(level) for p in points)
            labels.append(text(right, y(level) + (13 if crowded and y(level) + 13 < bottom else -4), words, "end halo"))
    parts.append(line(left, bottom, right, bottom, "axis-l"))
    parts += [text(x(tick), height - 6, num(int(tick)), "mid") for tick in nice_ticks(0, last, 4)]
    if len(points) > 1:
        parts.append(polyline([(x(p.x), y(p.value)) for p in points], f"thin s-{cls}"))
    for p in points:
        title = f"Step {num(int(p.x))}: {num(p.value, digits + 1)} with {interval(p.low, p.high, digits + 1)}"
        parts.append(line(x(p.x), y(p.low), x(p.x), y(p.high), f"s-{cls}", 1.5))
        parts.append(circle(x(p.x), y(p.value), 3.6, f"f-{cls}" if p.marked else f"hollow s-{cls}", title))
    return picture(width, height, label, parts + labels)


def interval_cell(
    value: float,
    low: float,
    high: float,
    *,
    scale: tuple[float, float],
    baseline: float | None = None,
    cls: str = "kto",
    width: int = 96,
) -> Markup:
    """A mini interval for a table cell, on a scale that its row shares."""
    span = (scale[1] - scale[0]) or 1.0

    def x(number: float) -> float:
        return 5 + (min(max(number, scale[0]), scale[1]) - scale[0]) / span * (width - 10)

    parts = [rect(0, 9, width, 1, "f-line")]
    if baseline is not None:
        parts.append(line(x(baseline), 1, x(baseline), 18, "ref-l"))
    parts += [line(x(low), 9.5, x(high), 9.5, f"s-{cls}", 2), circle(x(value), 9.5, 3.6, f"f-{cls}")]
    return picture(width, 19, f"{num(value, 3)} with {interval(low, high)}", parts, "ivl")
