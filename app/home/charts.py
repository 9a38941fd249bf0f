"""Home's small drawing: two weeks of ratings, mirrored on zero, without axes."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from app.web.formats import num
from app.web.svg import Day
from app.web.svg.draw import line, picture, rect

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
