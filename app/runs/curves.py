"""The curves of a run: what its metrics events say, the newest attempt at each step."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from app.models import FINAL, Checkpoint, Run, RunEvent

MAX_POINTS = 400
SIMILARITY_MARGIN = 0.05
"""Largest rise of mean within-prompt similarity that counts as "not less varied"."""
CSV_BATCH = 1000


def held_out_auc(heldout: dict[str, Any]) -> dict[str, Any]:
    """The estimate that checkpoints are compared by: AUC within the prompt, pooled where no prompt carries both labels."""
    within: dict[str, Any] = heldout["auc_within_prompt"]
    pooled: dict[str, Any] = heldout["auc"]
    return within if within["value"] is not None else pooled


def evaluated_points(step: int, data: dict[str, Any]) -> list[dict[str, Any]]:
    """[{"key", "x", "y", "lo", "hi"}] of an evaluation_finished event."""
    auc = held_out_auc(data["heldout"])
    points = [{"key": "heldout/auc", "x": step, "y": auc["value"], "lo": auc["low"], "hi": auc["high"]}]
    diversity = data.get("diversity")
    if diversity and "similarity" in diversity["overall"]:
        found = diversity["overall"]["similarity"]
        points.append({"key": "similarity", "x": step, "y": found["change"], "lo": found["low"], "hi": found["high"]})
    return [point for point in points if point["y"] is not None]


def curves(db: Session, run: Run) -> dict[str, Any]:
    """The picture of all curves, thinned to MAX_POINTS steps; the first and the newest step are always there."""
    newest = _newest(run, "metrics").subquery()
    number = func.row_number().over(order_by=newest.c.step).label("number")
    count = func.count().over().label("count")
    numbered = select(newest.c.step, newest.c.at, newest.c.data, number, count).subquery()
    stride = cast(func.ceil(numbered.c.count / float(MAX_POINTS - 1)), BigInteger)
    thinned = (
        select(numbered.c.step, numbered.c.at, numbered.c.data)
        .where(((numbered.c.number - 1) % stride == 0) | (numbered.c.number == numbered.c.count))
        .order_by(numbered.c.step)
    )
    rows = db.execute(thinned).all()
    keys = sorted({key for _, _, data in rows for key in data})
    evals: dict[str, list[dict[str, Any]]] = {}
    for step, _, _, data in db.execute(_newest(run, "evaluation_finished")):
        for point in evaluated_points(step, data):
            evals.setdefault(point.pop("key"), []).append(point)
    return {
        "x": [step for step, _, _ in rows],
        "time": [at.timestamp() for _, at, _ in rows],
        "series": {key: [data.get(key) for _, _, data in rows] for key in keys},
        "evals": evals,
        "checkpoints": checkpoint_steps(db, run),
        "planned": run.total_steps or None if run.status not in FINAL else None,
    }


def checkpoint_steps(db: Session, run: Run) -> list[int]:
    statement = select(Checkpoint.step).where(Checkpoint.run_id == run.id).order_by(Checkpoint.step)
    return list(db.scalars(statement))


def metrics_csv(db: Session, run: Run) -> Iterator[str]:
    """Every step, a column per metric; read and written in batches."""
    keys = sorted(
        db.scalars(
            select(func.jsonb_object_keys(RunEvent.data))
            .where(RunEvent.run_id == run.id, RunEvent.kind == "metrics")
            .distinct()
        )
    )
    yield _line(["step", "attempt", "at", *keys])
    rows = db.execute(_newest(run, "metrics").execution_options(yield_per=CSV_BATCH))
    for batch in rows.partitions():
        yield "".join(
            _line([step, attempt, at.isoformat(), *(data.get(key, "") for key in keys)])
            for step, at, attempt, data in batch
        )


def _newest(run: Run, kind: str) -> Any:
    """(step, at, attempt, data) by step."""
    return (
        select(RunEvent.step, RunEvent.at, RunEvent.attempt, RunEvent.data)
        .where(RunEvent.run_id == run.id, RunEvent.kind == kind)
        .order_by(RunEvent.step, RunEvent.attempt.desc(), RunEvent.id.desc())
        .ext(distinct_on(RunEvent.step))
    )


def _line(values: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()
