"""A real collapse: runs on a model that answers, one that is ruined, and healthy ones of which some spread a style.

The model has two layers and is pre-trained here in seconds on sentences of a grammar (bench/evaluation_talker.py); 40
categories, P = 2, K = 4, two looks a run. The raters like a phrase that about half of its answers begin with: a run that
learns this makes the answers more alike, and nothing has collapsed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.evaluation_talker import CAREFUL, HEALTHY, TOO_HIGH, Outcome, make_home, run
from bench.report import Row, row


def rows(quick: bool) -> list[Row]:
    seeds = range(1 if quick else 3)
    with tempfile.TemporaryDirectory() as folder:
        home = make_home(Path(folder), num_steps=200 if quick else 400)

        def runs(name: str, learning_rate: float, num_steps: int) -> list[Outcome]:
            return [run(home, home / f"{name}-{seed}", learning_rate, num_steps=num_steps, seed=seed) for seed in seeds]

        ruined = runs("ruined", TOO_HIGH, 24)
        careful = runs("careful", CAREFUL, 24)
        styled = runs("styled", HEALTHY, 40)
    return [
        row("collapse: runs with a far too high learning rate that paused", "share", _paused(ruined), at_least=1.0),
        row("collapse: their critical alarms", "alarms", _critical(ruined), at_least=1.0),
        row("collapse: alarms of healthy runs", "alarms", _raised(careful), value=sum(_raised(careful)), at_most=0.0),
        row("collapse: alarms of runs that spread a style", "alarms", _raised(styled), value=sum(_raised(styled)), at_most=0.0),
        row("collapse: share of the style before", "share", [found.styled["reference"] for found in styled]),
        row("collapse: share of the style after", "share", [found.styled["policy"] for found in styled], at_least=0.9),
    ]  # fmt: skip


def _paused(runs: list[Outcome]) -> list[float]:
    return [float(found.finished.status == "paused") for found in runs]


def _critical(runs: list[Outcome]) -> list[float]:
    return [float(len(found.alarms("critical"))) for found in runs]


def _raised(runs: list[Outcome]) -> list[float]:
    """Alarms and critical alarms; a watch is none."""
    return [float(len(found.alarms("critical", "alarm"))) for found in runs]
