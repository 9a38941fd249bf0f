"""Held-out votes under one arm: AUC prompt by prompt, and how well its rewards are calibrated.

The rows are those of ``heldout/<arm>.jsonl``: {"id", "prompt_key", "root", "label", "logratio", …}.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worker.alignment.evaluation.intervals import auc_estimate
from worker.alignment.evaluation.stats import auc
from worker.alignment.events import Estimate

NUM_BINS = 9


def prompt_aucs(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """AUC of the log-ratio within each prompt that carries both labels; ties count half, so a reference has 0.5."""
    by_prompt: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_prompt[row["prompt_key"]].append(row)
    found = {key: auc(*_scores_and_labels(group)) for key, group in by_prompt.items()}
    return {key: value for key, value in found.items() if value is not None}


def roots(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Conversation root of each prompt: the cluster that it belongs to."""
    return {row["prompt_key"]: row["root"] for row in rows}


def pooled_auc(rows: Sequence[Mapping[str, Any]]) -> Estimate:
    """Over all rows, which the prompt confounds; its interval resamples conversation roots."""
    if not rows:
        return Estimate(value=None)
    return auc_estimate(*_scores_and_labels(rows), np.array([row["root"] for row in rows], dtype=object))


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    predicted: float
    observed: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Of the predicted share sigmoid(beta * logratio), which depends on beta: arms of one beta can be compared."""

    beta: float
    accuracy: float
    """Share of rows whose reward has the sign of their label; a reward of 0 is half right."""
    ece: float
    """Expected calibration error over bins of equal count."""
    bins: list[CalibrationBin]
    num_rows: int


def calibration(rows: Sequence[Mapping[str, Any]], beta: float, num_bins: int = NUM_BINS) -> Calibration | None:
    """None where there are fewer rows than bins."""
    if len(rows) < num_bins:
        return None
    logratios, labels = _scores_and_labels(rows)
    rewards = beta * logratios
    predicted = 1 / (1 + np.exp(-np.clip(rewards, -500, 500)))
    right = np.where(rewards == 0, 0.5, (rewards > 0) == labels)
    parts = np.array_split(np.argsort(predicted, kind="stable"), num_bins)
    bins = [
        CalibrationBin(predicted=float(predicted[part].mean()), observed=float(labels[part].mean()), count=len(part))
        for part in parts
    ]
    ece = sum(item.count * abs(item.predicted - item.observed) for item in bins) / len(rows)
    return Calibration(beta=beta, accuracy=float(right.mean()), ece=ece, bins=bins, num_rows=len(rows))


def _scores_and_labels(rows: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
    return (
        np.array([row["logratio"] for row in rows], dtype=np.float64),
        np.array([row["label"] for row in rows], dtype=np.bool_),
    )
