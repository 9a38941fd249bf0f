"""Results as points over checkpoints, ready to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from app.evaluations.queries import best_of
from app.models import Evaluation
from app.web import svg
from app.web.formats import num, signed
from app.web.svg.draw import circle, line, nice_ticks, padded, picture, polyline, text


def heldout_points(evaluations: Sequence[Evaluation], key: str) -> list[svg.Estimate]:
    """``key`` of HeldoutResult over the steps; the best checkpoint is marked. A point without an interval has no whisker."""
    return _points(evaluations, [item.heldout[key] for item in evaluations], "value")


def diversity_points(evaluations: Sequence[Evaluation], metric: str) -> list[svg.Estimate]:
    """Overall change of ``metric`` against the reference over the steps that have it."""
    overall = [(item, item.diversity["overall"]) for item in evaluations if item.diversity]
    measured = [(item, found[metric]) for item, found in overall if metric in found]
    return _points([item for item, _ in measured], [figure for _, figure in measured], "change")


def _points(evaluations: Sequence[Evaluation], figures: Sequence[dict[str, Any]], key: str) -> list[svg.Estimate]:
    best = best_of(evaluations)
    return [
        svg.Estimate(
            x=item.step,
            value=figure[key],
            low=figure[key] if figure["low"] is None else figure["low"],
            high=figure[key] if figure["high"] is None else figure["high"],
            marked=item is best,
        )
        for item, figure in zip(evaluations, figures, strict=True)
        if figure[key] is not None
    ]


def rewards_by_class(evaluations: Sequence[Evaluation], *, width: int = 460, height: int = 180) -> Markup:
    """Mean implied reward of each class over the steps, against the reference at 0."""
    series = {
        cls: [(item.step, item.heldout[key]) for item in evaluations if item.heldout[key] is not None]
        for cls, key in (("des", "reward_desirable"), ("und", "reward_undesirable"))
    }
    values = [value for points in series.values() for _, value in points]
    low, high = padded([0.0, *values])
    last = max((item.step for item in evaluations), default=0) or 1
    left, right, top, bottom = 44.0, width - 10.0, 8.0, height - 22.0

    def x(step: float) -> float:
        return left + 6 + step / last * (right - left - 12)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (bottom - top)

    parts: list[str] = []
    for tick in nice_ticks(low, high, 3):
        parts += [line(left, y(tick), right, y(tick), "grid-l"), text(left - 6, y(tick) + 4, signed(tick, 2), "end")]
    parts += [line(left, y(0), right, y(0), "ref-l"), text(right, y(0) - 4, "reference", "end halo")]
    parts += [text(x(tick), height - 6, num(int(tick)), "mid") for tick in nice_ticks(0, last, 4)]
    for (cls, points), word in zip(series.items(), ("Desirable", "Undesirable"), strict=True):
        drawn = [(x(step), y(value)) for step, value in points]
        if len(drawn) > 1:
            parts.append(polyline(drawn, f"ln s-{cls}{' d-2' if cls == 'und' else ''}"))
        parts += [
            circle(*place, 3.2, f"f-{cls}", f"{word}, step {num(step)}: {signed(value)}")
            for place, (step, value) in zip(drawn, points, strict=True)
        ]
    return picture(width, height, "Mean held-out reward of desirable and undesirable completions by step", parts)
