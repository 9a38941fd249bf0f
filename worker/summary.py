"""Keeps the latest values of a run in its row, so that lists and the strip above the curves need no look at its events."""

from __future__ import annotations

from typing import Any

from app.models import Run
from app.runs.curves import held_out_auc
from worker.alignment.events import Event

SPARK_POINTS = 40


def summarise(run: Run, event: Event) -> None:
    """Apply one event to ``step``, ``total_steps`` and ``summary`` (a new dict, so that SQLAlchemy sees the change)."""
    summary = dict(run.summary)
    if event.kind == "run_started":
        run.total_steps = event.data["total_steps"]
        run.step = event.data["start_step"]
        summary["started"] = event.data
        summary["pace"] = {"at": event.at, "step": event.data["start_step"]}
    elif event.kind == "progress":
        summary["progress"] = event.data
    elif event.kind == "metrics":
        run.step = event.step
        summary["metrics"] = event.data
        _add_spark(summary, event)
    elif event.kind == "evaluation_finished":
        _note_best(summary, event.data)
    elif event.kind == "run_finished":
        summary.pop("progress", None)
    run.summary = summary


def _add_spark(summary: dict[str, Any], event: Event) -> None:
    """Evenly spaced losses: every ``stride``-th step, the stride doubling when there are too many."""
    loss = event.data.get("loss")
    stride = summary.get("spark_stride", 1)
    if loss is None or event.step % stride:
        return
    points = [point for point in summary.get("spark", []) if point[0] < event.step] + [[event.step, loss]]
    if len(points) > SPARK_POINTS:
        stride *= 2
        points = [point for point in points if point[0] % stride == 0]
    summary["spark"], summary["spark_stride"] = points, stride


def _note_best(summary: dict[str, Any], data: dict[str, Any]) -> None:
    """The checkpoint with the highest held-out AUC on the dev split; the first of equals."""
    auc = held_out_auc(data["heldout"])
    best = summary.get("best")
    if auc["value"] is not None and (best is None or auc["value"] > best["auc"]):
        summary["best"] = {"step": data["step"], "auc": auc["value"], "low": auc["low"], "high": auc["high"]}
