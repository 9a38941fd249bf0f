"""Small marks: spark, progress with checkpoints, legend keys, and the pair of drawings for wide and phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from app.web.formats import num
from app.web.svg.draw import circle, coord, line, picture, polyline, rect


def both(chart: Callable[..., Markup], *args: Any, wide: int, phone: int = 340, **settings: Any) -> Markup:
    """The chart drawn twice, for a wide screen and for a phone, so that its text keeps its size."""
    pair = Markup('<div class="only-wide">{}</div><div class="only-phone">{}</div>')
    return pair.format(chart(*args, width=wide, **settings), chart(*args, width=phone, **settings))


def spark(values: Sequence[float], label: str, *, cls: str = "s-ink", width: int = 88, height: int = 20) -> Markup:
    """A line without axes and a dot at its end. An empty series draws the axis only."""
    if not values:
        return picture(width, height, label, [line(0, height / 2, width, height / 2, "axis-l")], "spark")
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    right = width - 3
    step = right / max(len(values) - 1, 1)
    points = [(index * step, 2 + (high - value) / span * (height - 4)) for index, value in enumerate(values)]
    if len(points) == 1:
        points = [(0.0, points[0][1]), (right, points[0][1])]
    end = points[-1]
    return picture(
        width, height, label, [polyline(points, f"ln {cls}"), circle(*end, 2.2, cls.replace("s-", "f-"))], "spark"
    )


def progress(*, step: int, total: int, checkpoints: Sequence[int] = (), saved: int | None = None) -> Markup:
    """How far a run is: a bar, and a ring per planned checkpoint, dark once its step is reached or ``saved`` of them are.

    Positions are percentages, so that it fills any width and its rings stay round.
    """
    total = max(total, 1)
    reached = sum(at <= step for at in checkpoints) if saved is None else saved
    done = min(step / total, 1)
    parts = [
        f'<rect class="f-{css}" y="4" width="{coord(part * 100)}%" height="6" rx="3"/>'
        for css, part in (("selected", 1), ("ink", done))
    ]
    for index, at in enumerate(checkpoints):
        place = coord(min(at / total, 1) * 100)
        css = "s-ink" if index < reached else "s-idle"
        parts.append(
            f'<circle class="hollow {css}" cx="{place}%" cy="7" r="4"><title>Checkpoint {num(at)}</title></circle>'
        )
    label = f"Step {num(step)} of {num(total)}"
    if checkpoints:
        label += f"; {reached} of {len(checkpoints)} checkpoints saved"
    frame = Markup('<svg class="progress-svg" role="img" aria-label="{}">{}</svg>')
    return frame.format(label, Markup("".join(parts)))  # noqa: S704 - numbers only


_KEYS = {
    "des": rect(0, 4, 24, 8, "f-des", 2),
    "und": rect(0, 4, 24, 8, "f-und", 2),
    "kto": line(0, 8, 24, 8, "ln s-kto") + circle(12, 8, 3.5, "f-kto"),
    "dpo": line(0, 8, 24, 8, "ln s-dpo d-2") + rect(9, 5, 6, 6, "hollow s-dpo"),
    "ink": line(0, 8, 24, 8, "ln s-ink"),
    "ref": line(0, 8, 24, 8, "ref-l"),
    "margin": line(0, 8, 24, 8, "margin-l"),
}


def legend_key(kind: str) -> Markup:
    """The mark beside a word in a legend: des, und, kto, dpo, ink, ref or margin. Raises KeyError for another."""
    return Markup('<svg viewBox="0 0 24 16" aria-hidden="true">{}</svg>').format(Markup(_KEYS[kind]))  # noqa: S704 - constants
