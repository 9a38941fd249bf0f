"""Snapshots, runs, their events and checkpoints, workers."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.db import Base


class RunStatus(StrEnum):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


ACTIVE = (RunStatus.STARTING, RunStatus.RUNNING, RunStatus.STOPPING)
FINAL = (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED)


class Snapshot(Base):
    """An immutable, content-hashed set of (prompt, completion, label), written to files once."""

    __tablename__ = "snapshots"
    __table_args__ = (
        UniqueConstraint("project_id", "content_hash"),
        Index("ix_snapshots_project_id_id", "project_id", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    content_hash: Mapped[str] = mapped_column(Text)
    """SHA-256 over the canonical rows."""
    rule: Mapped[dict[str, Any]] = mapped_column()
    """How ratings became labels."""
    path: Mapped[str] = mapped_column(Text)
    """Relative to the artifacts root."""
    counts: Mapped[dict[str, Any]] = mapped_column()
    """{"train"|"dev"|"test": {"desirable": n, "undesirable": n, "prompts": n, "roots": n}, "categories": n, "dropped": {…}}."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Run(Base):
    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("project_id", "launch_key"),
        UniqueConstraint("project_id", "name"),
        Index("ix_runs_project_id_id", "project_id", "id"),
        Index(
            "ix_runs_open", "status", "id", postgresql_where=text("status NOT IN ('succeeded','failed','cancelled')")
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    snapshot_id: Mapped[int] = mapped_column(ForeignKey("snapshots.id"))
    name: Mapped[str] = mapped_column(Text)
    launch_key: Mapped[str] = mapped_column(Text)
    """Issued by the form: a second submit of the same form finds this run."""
    objective: Mapped[str] = mapped_column(Text)
    config: Mapped[dict[str, Any]] = mapped_column()
    """AlignmentConfig.to_json()."""
    status: Mapped[str] = mapped_column(Text, server_default=text("'queued'"))
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    """Fencing token: events and checkpoints of an older attempt are refused."""
    worker: Mapped[str | None] = mapped_column(Text)
    lease_until: Mapped[datetime | None]
    stop_requested: Mapped[str | None] = mapped_column(Text)
    """save: finish the step, save, end as cancelled with a checkpoint."""
    failure_reason: Mapped[str | None] = mapped_column(Text)
    failure_message: Mapped[str | None] = mapped_column(Text)
    acknowledged_alarms: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    """Kinds of critical alarms that a lead has decided to go on with."""
    step: Mapped[int] = mapped_column(server_default=text("0"))
    total_steps: Mapped[int] = mapped_column(server_default=text("0"))
    summary: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """Latest values for lists: {"metrics": {…}, "progress": {…}, "started": RunStarted, "best": {…}}."""
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    snapshot: Mapped[Snapshot] = relationship()


class RunEvent(Base):
    """A line of the trainer's event file, or of the worker about it (kind `state`)."""

    __tablename__ = "run_events"
    __table_args__ = (UniqueConstraint("run_id", "attempt", "seq"), Index("ix_run_events_run_id_id", "run_id", "id"))

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    """Order of arrival: the SSE stream's event id."""
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    seq: Mapped[int]
    """The trainer's own number; negative for events of the app about this attempt."""
    kind: Mapped[str] = mapped_column(Text)
    step: Mapped[int]
    data: Mapped[dict[str, Any]] = mapped_column()
    at: Mapped[datetime]


class Checkpoint(Base):
    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("run_id", "step"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    step: Mapped[int]
    path: Mapped[str] = mapped_column(Text)
    """Relative to the artifacts root."""
    manifest_sha256: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    is_last: Mapped[bool] = mapped_column(server_default=text("false"))
    removed_at: Mapped[datetime | None]
    """Its files went by the run's keep policy; what was measured of it stays."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Worker(Base):
    """A worker process that has been heard of."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    devices: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    """[{"name": str, "kind": "cpu"|"cuda", "memory_bytes": int}]."""
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"))
    started_at: Mapped[datetime]
    heard_at: Mapped[datetime]
