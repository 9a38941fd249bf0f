"""Model versions, their aliases and exports."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Text, UniqueConstraint, func, text
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
