"""Home's small drawings: two weeks of ratings mirrored on zero, and how well the served version ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from app.web.formats import interval, num
from app.web.svg import Day
from app.web.svg.draw import circle, line, picture, rect, text

_WIDTH, _HEIGHT = 230.0, 46.0


def mini_days(days: Sequence[Day]) -> Markup:
    """Desirable above the line, undesirable below it, oldest first."""
    up = max((day.desirable for day in days), default=0)
    down = max((day.undesirable for day in days), default=0)
    scale = (_HEIGHT - 2) / max(up + down, 1)
    zero = 1 + up * scale if up + down else _HEIGHT / 2
    slot = _WIDTH / max(len(days), 1)
    bar = slot * 0.68
    parts: list[str] = []
    for index, day in enumerate(days):
        x = slot * index + (slot - bar) / 2
        if day.desirable:
            parts.append(rect(x, zero - day.desirable * scale, bar, max(day.desirable * scale - 0.5, 0.5), "f-des"))
        if day.undesirable:
            parts.append(rect(x, zero + 0.5, bar, max(day.undesirable * scale - 0.5, 0.5), "f-und"))
    parts.append(line(0, zero, _WIDTH, zero, "axis-l"))
    total = sum(day.desirable + day.undesirable for day in days)
    return picture(_WIDTH, _HEIGHT, f"{num(total)} ratings in the last {len(days)} days", parts)


def served_auc(auc: dict[str, Any]) -> Markup:
    """Held-out AUC ({value, low, high}) of the served version on a line that ends at 1, against chance."""
    value: float = auc["value"]
    low: float = value if auc["low"] is None else auc["low"]
    high: float = value if auc["high"] is None else auc["high"]
    start = min(0.45, low - 0.02)

    def x(figure: float) -> float:
        return 4 + (figure - start) / (1 - start) * (_WIDTH - 8)

    middle = 14.0
    parts = [
        rect(0, middle - 0.5, _WIDTH, 1, "f-line"),
        line(x(0.5), 4, x(0.5), 24, "ref-l"),
        line(x(low), middle, x(high), middle, "s-kto", 2),
        circle(x(value), middle, 4, "f-kto"),
        text(x(0.5), 38, "chance", "mid"),
        text(_WIDTH, 38, "1", "end"),
    ]
    return picture(_WIDTH, _HEIGHT, f"Held-out AUC {num(value, 3)} with {interval(low, high)}", parts)
