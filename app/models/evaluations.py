"""What was measured at a checkpoint, and the alarms that it raised."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.db import Base
from app.models.runs import Checkpoint


class Evaluation(Base):
    """One checkpoint's results on the dev split and on the categories' prompts."""

    __tablename__ = "evaluations"
    __table_args__ = (UniqueConstraint("checkpoint_id", "kind"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoints.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(Text)
    """screen: by the training child at the checkpoint's boundary. full: more samples, by a job of its own."""
    step: Mapped[int]
    heldout: Mapped[dict[str, Any]] = mapped_column()
    """HeldoutResult."""
    diversity: Mapped[dict[str, Any] | None] = mapped_column()
    """DiversityResult without its categories."""
    seconds: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    checkpoint: Mapped[Checkpoint] = relationship()


class EvaluationCategory(Base):
    __tablename__ = "evaluation_categories"

    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True)
    category: Mapped[str] = mapped_column(Text, primary_key=True)
    num_prompts: Mapped[int]
    metrics: Mapped[dict[str, Any]] = mapped_column()
    """DIVERSITY_KEYS -> Contrast."""
    domain: Mapped[str] = mapped_column(Text, server_default=text("''"))
    open_ended: Mapped[bool] = mapped_column(server_default=text("true"))
    p: Mapped[float | None]
    q: Mapped[float | None]
    num_gated_prompts: Mapped[int] = mapped_column(server_default=text("0"))


class EvaluationSample(Base):
    """One sampled completion of one arm. Reference rows belong to every evaluation that was measured against them."""

    __tablename__ = "evaluation_samples"
    __table_args__ = (
        Index("ix_evaluation_samples_evaluation_id_category", "evaluation_id", "category", "prompt_number"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"))
    category: Mapped[str] = mapped_column(Text)
    prompt_number: Mapped[int]
    prompt: Mapped[list[Any]] = mapped_column()
    arm: Mapped[str] = mapped_column(Text)
    """reference or policy."""
    number: Mapped[int]
    """0 … K - 1."""
    text: Mapped[str] = mapped_column(Text)
    truncated: Mapped[bool]


class EvaluationAlarm(Base):
    """Alarm of worker.alignment.events as it was raised, and what a lead decided about it."""

    __tablename__ = "evaluation_alarms"
    __table_args__ = (
        UniqueConstraint("evaluation_id", "kind", "subject"),
        Index("ix_evaluation_alarms_run_id_step", "run_id", "step"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"))
    step: Mapped[int]
    kind: Mapped[str] = mapped_column(Text)
    level: Mapped[str] = mapped_column(Text)
    """critical, alarm or watch."""
    subject: Mapped[str] = mapped_column(Text, server_default=text("''"))
    data: Mapped[dict[str, Any]] = mapped_column()
    """The whole Alarm: metric, reference, policy, change, low, high, q, text."""
    resolution: Mapped[str] = mapped_column(Text, server_default=text("''"))
    """"" while open; accepted: gone on with, for the reason given; dismissed: no fault of the model's."""
    reason: Mapped[str] = mapped_column(Text, server_default=text("''"))
    resolved_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    resolved_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
