"""Launching runs and finding them again. The states are in ``lifecycle``, the checks in ``preflight``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Integer, cast, func, insert, select
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.clock import utcnow
from app.core.errors import ConflictError, NotFoundError
from app.core.pagination import Page, int_cursor, page_of
from app.core.queue import QUEUE_TRAIN, enqueue
from app.core.storage import artifact_path
from app.models import FINAL, Checkpoint, Evaluation, Project, Run, RunEvent, RunStatus, Snapshot, User
from app.runs import lifecycle
from worker.alignment.config import AlignmentConfig

PAGE_SIZE = 25


def launch(
    db: Session, project: Project, user: User | None, *, config: AlignmentConfig, snapshot: Snapshot, launch_key: str
) -> Run:
    """Queue a run. The same ``launch_key`` finds the run of the first call, so that a double submit is harmless.

    Preflight is the caller's. Raises ConflictError where the key was used with another config or snapshot.
    """
    if snapshot.project_id != project.id:
        raise NotFoundError("There is no such snapshot in this project.")
    db.execute(select(Project.id).where(Project.id == project.id).with_for_update())  # one launch at a time: names
    known = db.scalar(select(Run).where(Run.project_id == project.id, Run.launch_key == launch_key))
    if known is not None:
        if known.snapshot_id != snapshot.id or AlignmentConfig.from_json(known.config) != config:
            raise ConflictError(
                f"This form has already launched {known.name}, with other settings.",
                remedy="Open the launch page again to start another run.",
            )
        return known
    run = Run(
        project_id=project.id,
        snapshot_id=snapshot.id,
        name=_next_name(db, project, config.objective),
        launch_key=launch_key,
        objective=config.objective,
        config=config.to_json(),
        status=RunStatus.QUEUED,
        attempt=0,
        step=0,
        total_steps=0,
        summary={},
        created_by=user.id if user else None,
    )
    db.add(run)
    db.flush()
    state = {"status": RunStatus.QUEUED.value, "reason": "", "message": "", "worker": ""}
    db.execute(insert(RunEvent).values(run_id=run.id, attempt=0, seq=-1, kind="state", step=0, data=state, at=utcnow()))
    audit.record(
        db,
        "run.launched",
        project_id=project.id,
        user_id=user.id if user else None,
        subject=run.name,
        snapshot=snapshot.content_hash,
        base_model=config.base_model,
    )
    enqueue(db, lifecycle.ALIGN_TASK, run.id, queue=QUEUE_TRAIN)
    return run


def _next_name(db: Session, project: Project, objective: str) -> str:
    number = func.substring(Run.name, r"\d+$")
    last = db.scalar(select(func.max(cast(number, Integer))).where(Run.project_id == project.id))
    return f"{objective.partition('_')[0]}-{(last or 0) + 1:04d}"


def get_run(db: Session, project: Project, run_id: int) -> Run:
    run = db.scalar(select(Run).where(Run.project_id == project.id, Run.id == run_id))
    if run is None:
        raise NotFoundError("There is no such run in this project.")
    return run


def list_runs(db: Session, project: Project, cursor: str | None = None) -> Page[Run]:
    """Newest first."""
    statement = select(Run).where(Run.project_id == project.id).order_by(Run.id.desc()).limit(PAGE_SIZE + 1)
    before = int_cursor(cursor)
    if before is not None:
        statement = statement.where(Run.id < before)
    return page_of(db.scalars(statement).all(), PAGE_SIZE, key=lambda run: run.id)


def list_snapshots(db: Session, project: Project, limit: int = 50) -> Sequence[Snapshot]:
    """Newest first: the choices of the launch form."""
    statement = select(Snapshot).where(Snapshot.project_id == project.id).order_by(Snapshot.id.desc()).limit(limit)
    return db.scalars(statement).all()


def get_snapshot(db: Session, project: Project, snapshot_id: int) -> Snapshot:
    found = db.scalar(select(Snapshot).where(Snapshot.project_id == project.id, Snapshot.id == snapshot_id))
    if found is None:
        raise NotFoundError("There is no such snapshot in this project.")
    return found


def list_checkpoints(db: Session, run: Run) -> Sequence[tuple[Checkpoint, Evaluation | None]]:
    """Checkpoints of a run, newest step first, each with its screen evaluation once there is one."""
    statement = (
        select(Checkpoint, Evaluation)
        .outerjoin(Evaluation, (Evaluation.checkpoint_id == Checkpoint.id) & (Evaluation.kind == "screen"))
        .where(Checkpoint.project_id == run.project_id, Checkpoint.run_id == run.id)
        .order_by(Checkpoint.step.desc())
    )
    return [(checkpoint, evaluation) for checkpoint, evaluation in db.execute(statement)]


def queue_place(db: Session, run: Run) -> int:
    """How many runs of the whole installation are before this queued one, running ones included."""
    open_runs = [status.value for status in RunStatus if status not in {*FINAL, RunStatus.PAUSED}]
    return db.scalar(select(func.count()).where(Run.status.in_(open_runs), Run.id < run.id)) or 0


def run_folder(run_id: int) -> Path:
    return artifact_path("runs", str(run_id))


def attempt_folder(run_id: int, attempt: int) -> Path:
    return run_folder(run_id) / "attempts" / str(attempt)


def log_tail(run_id: int, attempt: int, limit_bytes: int = 16_000) -> str:
    """The end of what an attempt's process printed; whole lines, empty where there is none."""
    file = attempt_folder(run_id, attempt) / "log.txt"
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(size - limit_bytes, 0))
            text = stream.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return text.partition("\n")[2] if size > limit_bytes else text
