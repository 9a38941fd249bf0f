"""Differences with their intervals against a reference line, and predicted against observed shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from app.web.formats import DASH, num, pct, signed
from app.web.svg.draw import circle, line, nice_ticks, padded, picture, polyline, rect, text

_ROW, _COMPACT_ROW = 38, 25
_TOP, _FOOT = 24, 22
_LETTER_12 = 6.2
"""About the width of a character at 12 px."""


@dataclass(frozen=True)
class ForestRow:
    """One figure. Better is to the right. ``low`` and ``high`` are None where no interval can be had."""

    name: str
    value: float
    low: float | None
    high: float | None
    margin: float | None = None
    """The lowest value still counted as not worse (guards only)."""
    note: str = ""
    """Second line under the name: what it is, or its margin."""
    cls: str = ""
    """Colour of the arm: kto, dpo, ink; "" is that of the plot. dpo is a square."""
    strong: bool = False
    """The primary figure: its name in bold."""
    text: str = ""
    """Instead of the interval in the right column: ``could see ≥ 3.3``."""


def forest(
    rows: Sequence[ForestRow],
    label: str,
    *,
    reference: float = 0.0,
    heads: tuple[str, str] = ("", ""),
    cls: str = "kto",
    digits: int = 3,
    share: bool = False,
    compact: bool = False,
    width: int = 640,
) -> Markup:
    """One line per figure: a dashed line at ``reference``, an interval of 2 px, its figures in a right column.

    The marker is filled when the interval excludes the reference, hollow when it holds it or there is none; each guard's
    margin is a dotted red tick. ``heads`` stand left and right of the reference: ``("DPO better", "KTO better")``.
    ``share``: figures are shares of 1, written as percentages without a sign (win rates, reference 0.5), else signed with
    ``digits`` decimals. ``compact``: rows of one line, without notes, the interval as ± half its width. Draw it at the real
    width, by ``svg.both(svg.forest, rows, label, wide=640, phone=326)``; a name that does not fit is cut.
    """
    plot = _Plot(rows, reference, width, cls=cls, digits=digits, share=share, compact=compact)
    parts = plot.frame(heads)
    for index, row in enumerate(rows):
        parts += plot.row(row, index)
    return picture(width, plot.bottom + _FOOT, label, parts)


class _Plot:
    """Places and words that the rows of one plot share."""

    def __init__(
        self,
        rows: Sequence[ForestRow],
        reference: float,
        width: int,
        *,
        cls: str,
        digits: int,
        share: bool,
        compact: bool,
    ) -> None:
        self.reference, self.width = reference, width
        self.cls, self.digits, self.share, self.compact = cls, digits, share, compact
        known = [b for r in rows for b in (r.value, r.low, r.high, r.margin) if b is not None]
        self.low, self.high = padded([reference, *known], 0.06)
        self.left, self.right = self._sides(rows)
        self.row_height = _COMPACT_ROW if compact else _ROW
        self.bottom = _TOP + self.row_height * len(rows)

    def _sides(self, rows: Sequence[ForestRow]) -> tuple[float, float]:
        """Where the plot begins and ends between the column of names and the column of figures."""
        longest = max((max(len(row.name), len(row.note) * 0.9 * (not self.compact)) for row in rows), default=0)
        left = min(longest * _LETTER_12 + 14, self.width * 0.42)
        if self.compact:
            return left, self.width - 84.0
        figures = max((len(row.text or self.range(row)) for row in rows), default=0)
        return left, self.width - max(figures * 5.8 + 14, 52.0)

    def x(self, value: float) -> float:
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def written(self, value: float) -> str:
        return pct(value, 0) if self.share else signed(value, self.digits)

    def range(self, row: ForestRow) -> str:
        """The interval in words, of a compact row as half its width."""
        if row.low is None or row.high is None:
            return DASH if self.compact else "no interval"
        if self.compact:
            half = (row.high - row.low) / 2
            return f"±{num(half * 100, 0) if self.share else num(half, self.digits)}"
        if self.share:
            return f"{num(row.low * 100, 0)}{DASH}{pct(row.high, 0)}"
        return f"{signed(row.low, self.digits)} to {signed(row.high, self.digits)}"

    def frame(self, heads: tuple[str, str]) -> list[str]:
        """Grid with its ticks, the reference, and for whom which side speaks."""
        top, parts, middle = _TOP - 4, [], self.x(self.reference)
        ticks = nice_ticks(self.low, self.high, 4 if self.right - self.left > 240 else 2)
        for tick in [self.reference, *(tick for tick in ticks if abs(self.x(tick) - middle) > 28)]:
            parts.append(line(self.x(tick), top, self.x(tick), self.bottom, "grid-l"))
            parts.append(text(self.x(tick), self.bottom + 14, pct(tick, 0) if self.share else _plain(tick), "mid"))
        parts.append(line(middle, top, middle, self.bottom, "ref-l"))
        parts += [text(middle - 8, 12, heads[0], "end")] if heads[0] else []
        parts += [text(middle + 8, 12, heads[1])] if heads[1] else []
        return parts

    def row(self, row: ForestRow, index: int) -> list[str]:
        top = _TOP + self.row_height * index
        y = top + self.row_height / 2
        parts = [line(0, top, self.width, top, "grid-l")] if index and not self.compact else []
        second = bool(row.note) and not self.compact
        look = "t-ink t-12 t-b" if row.strong else "t-ink t-12"
        parts.append(text(0, y - 2 if second else y + 4, _cut(row.name, self.left - 10), look))
        parts += [text(0, y + 12, row.note)] if second else []
        if row.margin is not None:
            parts.append(line(self.x(row.margin), y - 11, self.x(row.margin), y + 11, "margin-l"))
        parts += self.mark(row, y)
        beside = row.text or self.range(row)
        if self.compact:
            figures = (text(self.width - 38, y + 4, self.written(row.value), "end t-ink t-12"), y + 4)
        else:
            figures = (text(self.width, y - 2, self.written(row.value), "end t-ink t-12 t-b"), y + 12)
        return [*parts, figures[0], text(self.width, figures[1], beside, "end")]

    def mark(self, row: ForestRow, y: float) -> list[str]:
        """The interval and its marker."""
        cls, x, parts, excludes = row.cls or self.cls, self.x(row.value), [], False
        if row.low is not None and row.high is not None:
            excludes = not row.low <= self.reference <= row.high
            parts.append(line(self.x(row.low), y, self.x(row.high), y, f"s-{cls}", 2))
        look = f"f-{cls}" if excludes else f"hollow s-{cls}"
        title = f"{row.name}: {self.written(row.value)}, {self.range(row)}"
        square = rect(x - 3.9, y - 3.9, 7.8, 7.8, look, title=title)
        return [*parts, square if cls == "dpo" else circle(x, y, 4.2, look, title)]


def _plain(tick: float) -> str:
    """A tick with its sign and no needless zeros."""
    digits = next((places for places in range(4) if abs(tick - round(tick, places)) < 1e-9), 4)
    return signed(tick, digits)


def _cut(name: str, room: float) -> str:
    fitting = int(room / _LETTER_12)
    return name if len(name) <= fitting else name[: max(fitting - 1, 1)].rstrip() + "…"


@dataclass(frozen=True)
class CalibrationBin:
    """Rows of about equal predicted share: the mean predicted share, the observed one, and how many rows."""

    predicted: float
    observed: float
    count: int


@dataclass(frozen=True)
class CalibrationArm:
    name: str
    cls: str
    """Colour: kto, kto2, dpo (dashed, squares) or ink."""
    bins: tuple[CalibrationBin, ...]
    """By predicted share; nine of equal count is what the design asks for."""


def calibration(
    arms: Sequence[CalibrationArm],
    label: str,
    *,
    axis: str = "predicted share desirable",
    width: int = 300,
    height: int = 206,
) -> Markup:
    """Predicted (across) against observed share (up); the diagonal is the reference, the first arm's counts stand as grey bars
    on the floor. ECE belongs into the caption, with the beta that it was computed at.
    """
    left, right, top, bottom = 40.0, width - 14.0, 8.0, height - 34.0

    def x(share: float) -> float:
        return left + share * (right - left)

    def y(share: float) -> float:
        return bottom - share * (bottom - top)

    parts: list[str] = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [
            line(left, y(share), right, y(share), "grid-l" if share else "axis-l"),
            text(left - 6, y(share) + 3.5, pct(share, 0), "end"),
            text(x(share), bottom + 14, pct(share, 0), "mid"),
        ]
    counted = arms[0].bins if arms else ()
    most = max((item.count for item in counted), default=0) or 1
    for item in counted:
        tall = 18 * item.count / most
        parts.append(rect(x(item.predicted) - 6, bottom - tall, 12, tall, "f-line", title=f"{num(item.count)} rows"))
    parts.append(line(x(0), y(0), x(1), y(1), "ref-l"))
    for arm in arms:
        places = [(x(item.predicted), y(item.observed)) for item in arm.bins]
        if len(places) > 1:
            parts.append(polyline(places, f"ln s-{arm.cls}{' d-2' if arm.cls == 'dpo' else ''}"))
        for (across, up), item in zip(places, arm.bins, strict=True):
            title = f"{arm.name}: predicted {pct(item.predicted)}, observed {pct(item.observed)} of {num(item.count)}"
            if arm.cls == "dpo":
                parts.append(rect(across - 2.9, up - 2.9, 5.8, 5.8, f"hollow s-{arm.cls}", title=title))
            else:
                parts.append(circle(across, up, 3.2, f"f-{arm.cls}", title))
    parts.append(text((left + right) / 2, height - 3, axis, "mid"))
    return picture(width, height, label, parts)
