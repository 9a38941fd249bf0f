"""The few shapes every chart is made of. All text is escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape


def coord(value: float) -> str:
    """One decimal is a tenth of a pixel: enough, and short."""
    return f"{value:.1f}".removesuffix(".0")


def rect(x: float, y: float, width: float, height: float, cls: str, rx: float = 0, title: str = "") -> str:
    radius = f' rx="{coord(rx)}"' if rx else ""
    shape = f'<rect class="{cls}" x="{coord(x)}" y="{coord(y)}" width="{coord(max(width, 0))}" height="{coord(max(height, 0))}"{radius}'
    return f"{shape}><title>{escape(title)}</title></rect>" if title else f"{shape}/>"


def line(x1: float, y1: float, x2: float, y2: float, cls: str, width: float | None = None) -> str:
    stroke = f' stroke-width="{coord(width)}"' if width else ""
    return f'<path class="{cls}"{stroke} d="M{coord(x1)} {coord(y1)}L{coord(x2)} {coord(y2)}"/>'


def circle(x: float, y: float, radius: float, cls: str, title: str = "") -> str:
    shape = f'<circle class="{cls}" cx="{coord(x)}" cy="{coord(y)}" r="{coord(radius)}"'
    return f"{shape}><title>{escape(title)}</title></circle>" if title else f"{shape}/>"


def text(x: float, y: float, words: str, cls: str = "") -> str:
    return f'<text class="{cls}" x="{coord(x)}" y="{coord(y)}">{escape(words)}</text>'


def polyline(points: Iterable[tuple[float, float]], cls: str) -> str:
    return f'<path class="{cls}" d="M{"L".join(f"{coord(x)} {coord(y)}" for x, y in points)}"/>'


def picture(
    width: float, height: float, label: str, parts: Iterable[str], cls: str = "k-chart", *, stretch: bool = False
) -> Markup:
    """The ``<svg>`` itself; ``label`` is the sentence a screen reader says. ``stretch``: fills its box, for bars without text."""
    fit = ' preserveAspectRatio="none"' if stretch else ' preserveAspectRatio="xMinYMid"'
    frame = (
        f'<svg class="{cls}" viewBox="0 0 {coord(width)} {coord(height)}" role="img" aria-label="{escape(label)}"{fit}>'
    )
    return Markup(f"{frame}{''.join(parts)}</svg>")  # noqa: S704 - every text went through escape() above


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten) inside [low, high], about ``wanted`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(wanted, 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def padded(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """Low and high of the values with air on both sides; never an empty range."""
    low, high = min(values), max(values)
    air = (high - low) * share or abs(high) * share or 1.0
    return low - air, high + air
