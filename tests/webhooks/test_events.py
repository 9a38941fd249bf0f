"""The other places where something happens: an ended run, a promotion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.models import ModelVersion, OutboxEvent, Run, RunStatus, Webhook
from app.registry.service import promote
from app.runs.lifecycle import move
from tests.architecture.walk import furnish


def _events(db: Session, type_: str) -> list[dict[str, Any]]:
    return [row.data for row in db.scalars(select(OutboxEvent).where(OutboxEvent.type == type_)) if row.data]


def test_an_ended_run_and_a_promotion(db: Session, factory: Any, tmp_path: Path) -> None:
    there = furnish(db, factory, tmp_path)
    db.execute(update(Webhook).values(events=["run.finished", "model.promoted"]))
    version = db.scalars(select(ModelVersion).where(ModelVersion.project_id == there.project.id)).one()
    db.execute(update(Run).where(Run.id == version.run_id).values(status="running"))
    move(db, version.run_id, RunStatus.STOPPING, allowed=[RunStatus.RUNNING])
    assert _events(db, "run.finished") == []
    move(db, version.run_id, RunStatus.CANCELLED, allowed=[RunStatus.STOPPING])
    ended = _events(db, "run.finished")
    assert [(event["id"], event["status"]) for event in ended] == [(version.run_id, "cancelled")]
    for _ in range(2):
        promote(db, project=there.project, number=version.number, user=there.owner, reason="It was tried by hand.")
    promoted = _events(db, "model.promoted")
    assert [(event["version"], event["replaces"], event["run_id"]) for event in promoted] == [
        (version.number, None, version.run_id)
    ]
