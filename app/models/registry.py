"""Model versions, their aliases and exports."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.db import Base
from app.models.runs import Checkpoint, Run


class ModelVersion(Base):
    """A promoted checkpoint."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("project_id", "number"), UniqueConstraint("project_id", "checkpoint_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    number: Mapped[int]
    """1, 2, … in the project."""
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id"))
    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoints.id"))
    note: Mapped[str] = mapped_column(Text, server_default=text("''"))
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    run: Mapped[Run] = relationship()
    checkpoint: Mapped[Checkpoint] = relationship()


class Alias(Base):
    """A movable name with one holder."""

    __tablename__ = "aliases"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"))
    moved_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    moved_at: Mapped[datetime] = mapped_column(server_default=func.now())
    version: Mapped[ModelVersion] = relationship()


class Export(Base):
    """A version as files: the adapter, or a merged model that passed its check."""

    __tablename__ = "exports"
    __table_args__ = (UniqueConstraint("version_id", "kind"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(Text)
    """adapter or merged."""
    status: Mapped[str] = mapped_column(Text, server_default=text("'queued'"))
    """queued, running, ready, refused or failed."""
    message: Mapped[str] = mapped_column(Text, server_default=text("''"))
    report: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """Of the merge check: dtype, error, effect, ratio, correlation."""
    path: Mapped[str | None] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class GatePolicy(Base):
    """A project's own rules for promotion."""

    __tablename__ = "gate_policies"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    blocking_when_missing: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    """Keys of the gates for which not enough evidence blocks as a failure does."""
    thresholds: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """Margins that differ from the defaults, by gate."""
    updated_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class PromotionRequest(Base):
    """A promotion over a blocking gate: asked for with a reason, decided by another person where there is one."""

    __tablename__ = "promotion_requests"
    __table_args__ = (
        Index(
            "uq_promotion_requests_pending",
            "version_id",
            unique=True,
            postgresql_where=text("status = 'pending'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"))
    reason: Mapped[str] = mapped_column(Text)
    gates: Mapped[dict[str, Any]] = mapped_column()
    """Each gate's state when it was asked for."""
    status: Mapped[str] = mapped_column(Text, server_default=text("'pending'"))
    """pending, approved, refused or withdrawn."""
    requested_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    decided_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    decision_reason: Mapped[str] = mapped_column(Text, server_default=text("''"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    decided_at: Mapped[datetime | None]


class Incident(Base):
    """Something went wrong after promotion: raised by monitoring, or by a person."""

    __tablename__ = "incidents"
    __table_args__ = (
        Index("ix_incidents_project_id_id", "project_id", "id"),
        Index(
            "uq_incidents_open",
            "project_id",
            "kind",
            "subject",
            unique=True,
            postgresql_where=text("status = 'open'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(Text)
    """down_votes (CUSUM), loops, truncation, refusals, duplicates, pii, rater or manual."""
    subject: Mapped[str] = mapped_column(Text, server_default=text("''"))
    """Model, category or rater that it is about."""
    title: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """The figures, and completion ids as examples."""
    status: Mapped[str] = mapped_column(Text, server_default=text("'open'"))
    note: Mapped[str] = mapped_column(Text, server_default=text("''"))
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now())
    closed_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    closed_at: Mapped[datetime | None]
