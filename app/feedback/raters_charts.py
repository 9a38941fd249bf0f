"""Rows of the plots on the raters page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.feedback.raters import Figure, RaterFigures
from app.web.svg import ForestRow

SHOWN = 12


@dataclass(frozen=True, slots=True)
class RaterCharts:
    """Each empty where nothing is known."""

    against_peers: list[ForestRow]
    """In points of 1, own up-rate minus peers'."""
    agreement: list[ForestRow]
    gold: list[ForestRow]
    speed: list[tuple[str, float]]
    """Name and median seconds, the quickest first."""


def rater_charts(rows: Sequence[RaterFigures]) -> RaterCharts:
    return RaterCharts(
        against_peers=[_row(item, item.against_peers) for item in rows if item.against_peers][:SHOWN],
        agreement=[_row(item, item.agreement) for item in rows if item.agreement][:SHOWN],
        gold=[_row(item, item.gold) for item in rows if item.gold][:SHOWN],
        speed=sorted(((item.name, item.seconds) for item in rows if item.seconds), key=lambda row: row[1])[:SHOWN],
    )


def _row(item: RaterFigures, figure: Figure | None) -> ForestRow:
    assert figure is not None
    return ForestRow(
        name=item.name,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        note=f"{figure.n:,} {item.source}",
        cls="ink",
    )
