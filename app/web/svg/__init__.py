"""Charts as server-side SVG: classes only, so both themes come from the tokens; a sentence as label; no style attributes.

Text is 11 px at the width a chart is drawn for: pass the real width, and use ``both`` for a wide and a phone drawing.
"""

from app.web.svg.bars import Day, daily_bars, histogram, memory_bar, share_bar
from app.web.svg.forest import CalibrationArm, CalibrationBin, ForestRow, calibration, forest
from app.web.svg.heat import (
    EDGES,
    HeatCategory,
    HeatLayout,
    balance,
    cell_strip,
    heat_bin,
    heat_layout,
    heat_map,
    heat_scale,
)
from app.web.svg.marks import both, legend_key, progress, spark
from app.web.svg.points import Estimate, evaluated, interval_cell

__all__ = [
    "EDGES",
    "CalibrationArm",
    "CalibrationBin",
    "Day",
    "Estimate",
    "ForestRow",
    "HeatCategory",
    "HeatLayout",
    "balance",
    "both",
    "calibration",
    "cell_strip",
    "daily_bars",
    "evaluated",
    "forest",
    "heat_bin",
    "heat_layout",
    "heat_map",
    "heat_scale",
    "histogram",
    "interval_cell",
    "legend_key",
    "memory_bar",
    "progress",
    "share_bar",
    "spark",
]
