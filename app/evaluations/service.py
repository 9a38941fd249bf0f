"""Store what was measured at a checkpoint, once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.core.ids import content_hash
from app.models import Checkpoint, Evaluation, EvaluationAlarm, EvaluationCategory, EvaluationSample, Run

log = logging.getLogger(__name__)

SCREEN, FULL = "screen", "full"
_BATCH_ROWS = 2_000


def record_screen(
    db: Session, *, run: Run, checkpoint: Checkpoint, data: dict[str, Any], attempt_dir: Path
) -> Evaluation:
    """Write an ``evaluation_finished`` event's result with its categories, samples and alarms. A second call changes nothing.

    ``data`` is EvaluationResult as a dict; the samples are read from ``attempt_dir / data["samples_path"]``. Figures are
    kept also where that file cannot be read: they were measured, and the run goes on.
    """
    return _record(db, SCREEN, run=run, checkpoint=checkpoint, data=data, folder=attempt_dir)


def record_full(db: Session, *, run: Run, checkpoint: Checkpoint, data: dict[str, Any], folder: Path) -> Evaluation:
    """The same for an evaluation job's result, beside the checkpoint's screen; ``samples_path`` is relative to ``folder``."""
    return _record(db, FULL, run=run, checkpoint=checkpoint, data=data, folder=folder)


def _record(
    db: Session, kind: str, *, run: Run, checkpoint: Checkpoint, data: dict[str, Any], folder: Path
) -> Evaluation:
    diversity = data.get("diversity")
    evaluation_id = db.scalar(
        upsert(Evaluation)
        .values(
            project_id=run.project_id,
            run_id=run.id,
            checkpoint_id=checkpoint.id,
            kind=kind,
            step=data["step"],
            heldout=data["heldout"],
            diversity={key: value for key, value in diversity.items() if key != "categories"} if diversity else None,
            seconds=data["seconds"],
        )
        .on_conflict_do_nothing(index_elements=["checkpoint_id", "kind"])
        .returning(Evaluation.id)
    )
    if evaluation_id is not None:
        _add_categories(db, evaluation_id, diversity)
        _add_alarms(db, run, evaluation_id, data)
        _add_samples(db, evaluation_id, folder / data["samples_path"])
    return db.scalars(
        select(Evaluation).where(Evaluation.checkpoint_id == checkpoint.id, Evaluation.kind == kind)
    ).one()


def _add_categories(db: Session, evaluation_id: int, diversity: dict[str, Any] | None) -> None:
    """Results from before domains and tests were told lack their fields."""
    rows = [
        {
            "evaluation_id": evaluation_id,
            "category": item["category"],
            "num_prompts": item["num_prompts"],
            "metrics": item["metrics"],
            "domain": item.get("domain", ""),
            "open_ended": item.get("open_ended", True),
            "p": item.get("p"),
            "q": item.get("q"),
            "num_gated_prompts": item.get("num_gated_prompts", 0),
        }
        for item in (diversity or {}).get("categories", ())
    ]
    if rows:
        db.execute(insert(EvaluationCategory), rows)


def _add_alarms(db: Session, run: Run, evaluation_id: int, data: dict[str, Any]) -> None:
    rows = [
        {
            "project_id": run.project_id,
            "run_id": run.id,
            "evaluation_id": evaluation_id,
            "step": data["step"],
            "kind": alarm["kind"],
            "level": alarm["level"],
            "subject": alarm.get("subject", ""),
            "data": alarm,
        }
        for alarm in data.get("alarms", ())
    ]
    if rows:
        statement = upsert(EvaluationAlarm).on_conflict_do_nothing(index_elements=["evaluation_id", "kind", "subject"])
        db.execute(statement, rows)


def _add_samples(db: Session, evaluation_id: int, path: Path) -> None:
    try:
        with path.open(encoding="utf-8") as lines:
            rows = _sample_rows(evaluation_id, lines)
            while batch := list(islice(rows, _BATCH_ROWS)):
                db.execute(insert(EvaluationSample), batch)
    except OSError as error:
        log.warning("Evaluation %s has no samples, %s cannot be read: %s", evaluation_id, path, error)


def _sample_rows(evaluation_id: int, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Prompts are numbered in the order of the file, so that both arms of a prompt carry the same number."""
    numbers: dict[str, int] = {}
    for line in lines:
        sample = json.loads(line)
        key = content_hash([sample["category"], sample["prompt"]])
        yield {
            "evaluation_id": evaluation_id,
            "category": sample["category"],
            "prompt_number": numbers.setdefault(key, len(numbers)),
            "prompt": sample["prompt"],
            "arm": sample["arm"],
            "number": sample["index"],
            "text": storable(sample["text"]),
            "truncated": sample["truncated"],
        }


def storable(text: str) -> str:
    """A model may sample anything; PostgreSQL takes neither NUL nor half a surrogate pair."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
