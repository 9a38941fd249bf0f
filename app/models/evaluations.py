"""What was measured at a checkpoint."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Text, UniqueConstraint, func
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
    """screen: by the training child at the checkpoint's boundary."""
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
