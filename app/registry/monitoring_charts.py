"""The down-vote rate by day with its interval, and the control chart over single votes."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from app.registry.monitoring import ModelVotes
from app.web.formats import num, pct
from app.web.svg.draw import circle, line, nice_ticks, padded, picture, polyline, text
from worker.alignment.evaluation.monitoring import Cusum, wilson

MAX_POINTS = 300


def rate_days(entry: ModelVotes, baseline: ModelVotes | None, *, width: int = 560, height: int = 190) -> Markup:
    """One marker a day with its Wilson interval; the baseline's whole rate is the dashed line."""
    days = sorted(entry.days)
    rates = [wilson(*entry.days[day]) for day in days]
    level = baseline.rate.value if baseline else None
    _, high = padded([0.0, *(rate.high or 0.0 for rate in rates), level or 0.0])
    left, right, top, bottom = 44.0, width - 10.0, 8.0, height - 22.0
    span = max(1, (days[-1] - days[0]).days) if days else 1

    def x(place: int) -> float:
        return left + 8 + (days[place] - days[0]).days / span * (right - left - 16)

    def y(value: float) -> float:
        return top + (high - value) / high * (bottom - top)

    parts: list[str] = []
    for tick in nice_ticks(0, high, 3):
        parts += [line(left, y(tick), right, y(tick), "grid-l"), text(left - 6, y(tick) + 4, pct(tick, 0), "end")]
    if level is not None and baseline is not None:
        parts += [line(left, y(level), right, y(level), "ref-l"), text(right, y(level) - 4, baseline.model, "end halo")]
    parts.append(line(left, bottom, right, bottom, "axis-l"))
    marked = sorted({0, len(days) // 2, len(days) - 1}) if len(days) > 2 else range(len(days))
    parts += [text(x(place), height - 6, f"{days[place]:%-d %b}", _anchor(place, len(days))) for place in marked]
    drawn = [(x(place), y(rate.value or 0.0)) for place, rate in enumerate(rates)]
    if len(drawn) > 1:
        parts.append(polyline(drawn, "thin s-und"))
    for place, (day, rate) in enumerate(zip(days, rates, strict=True)):
        words = f"{day:%-d %b}: {pct(rate.value)} of {num(rate.n)} votes"
        parts.append(line(x(place), y(rate.low or 0.0), x(place), y(rate.high or 0.0), "s-und", 1.5))
        parts.append(circle(*drawn[place], 3.0, "f-und", words))
    return picture(width, height, f"Down-vote rate of {entry.model} by day, with 95 % intervals", parts)


def control_chart(chart: Cusum, *, width: int = 560, height: int = 190) -> Markup:
    """The sum after each vote; the dotted line is its limit. Long paths are thinned to their highest points."""
    left, right, top, bottom = 44.0, width - 10.0, 8.0, height - 22.0
    high = max(1.15 * chart.threshold, 1.05 * max(chart.path, default=0.0))
    count = max(1, len(chart.path))

    def x(number: float) -> float:
        return left + number / count * (right - left)

    def y(value: float) -> float:
        return top + (high - value) / high * (bottom - top)

    parts = [line(left, bottom, right, bottom, "axis-l")]
    parts += [line(left, y(chart.threshold), right, y(chart.threshold), "margin-l")]
    parts += [text(left - 6, y(tick) + 4, num(tick, 0), "end") for tick in nice_ticks(0, high, 3)]
    parts += [text(x(tick), height - 6, num(int(tick)), "mid") for tick in nice_ticks(0, count, 4)[1:]]
    parts.append(polyline([(x(place), y(value)) for place, value in _thinned(chart.path)], "thin s-ink"))
    if chart.alarm_at is not None:
        parts.append(circle(x(chart.alarm_at), y(chart.threshold), 3.6, "f-ink", f"Vote {num(chart.alarm_at)}: limit"))
    parts.append(text(right, y(chart.threshold) - 4, "limit", "end halo"))
    label = f"Control chart of down-votes over {num(len(chart.path))} votes, limit {num(chart.threshold, 1)}"
    return picture(width, height, label, parts)


def _anchor(place: int, count: int) -> str:
    return "start" if place == 0 else "end" if place == count - 1 else "mid"


def _thinned(path: Sequence[float]) -> list[tuple[int, float]]:
    size = -(-len(path) // MAX_POINTS) or 1
    groups = [path[start : start + size] for start in range(0, len(path), size)]
    return [(0, 0.0), *((index * size + group.index(max(group)) + 1, max(group)) for index, group in enumerate(groups))]
