"""Workers that have been heard of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import Membership, Project, Run, User, Worker
from app.runs.preflight import HEARD_SECONDS


@dataclass(frozen=True, slots=True)
class WorkerRow:
    worker: Worker
    is_heard: bool
    run: Run | None
    """What it is busy with; None where it is free, or where the viewer is no member of the run's project."""
    project: Project | None
    is_busy: bool


def list_workers(db: Session, user: User) -> Sequence[WorkerRow]:
    heard = (Worker.heard_at > func.clock_timestamp() - timedelta(seconds=HEARD_SECONDS)).label("is_heard")
    allowed = select(Membership.project_id).where(Membership.user_id == user.id)
    visible = (Run.id == Worker.run_id) & (True if user.is_owner else Run.project_id.in_(allowed))
    statement = (
        select(Worker, heard, Run, Project)
        .select_from(Worker)
        .outerjoin(Run, visible)
        .outerjoin(Project, Project.id == Run.project_id)
        .order_by(Worker.name)
    )
    return [
        WorkerRow(worker, is_heard, run, project, worker.run_id is not None)
        for worker, is_heard, run, project in db.execute(statement)
    ]
