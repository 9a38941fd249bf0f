"""KTO against DPO: arms, the decision, and blind A/B between two arms."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.db import Base
from app.models.runs import Run, Snapshot


class Comparison(Base):
    """Arms trained on one snapshot with one budget, chosen on DEV, judged on TEST."""

    __tablename__ = "comparisons"
    __table_args__ = (Index("ix_comparisons_project_id_id", "project_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    """The KTO run that it was started from: the first seed of the arm kto_all."""
    snapshot_id: Mapped[int] = mapped_column(ForeignKey("snapshots.id"))
    launch_key: Mapped[str] = mapped_column(Text, unique=True)
    plan: Mapped[dict[str, Any]] = mapped_column()
    """{"arms": [...], "seeds": [...], "grid": {arm: [knobs]}, "primary": suite version id|null, "guards": [...], "judge": endpoint id|null, "system_prompt": str}."""
    status: Mapped[str] = mapped_column(Text, server_default=text("'training'"))
    """training, evaluating, succeeded, failed, cancelled."""
    message: Mapped[str] = mapped_column(Text, server_default=text("''"))
    data_use: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """{arm: {"labels": n, "pairs": n, "set_aside": n}}: what each arm could use."""
    decision: Mapped[dict[str, Any] | None]
    """worker.alignment.evaluation.decision.Decision, once TEST was evaluated."""
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    run: Mapped[Run] = relationship(foreign_keys=[run_id])
    snapshot: Mapped[Snapshot] = relationship()
    arms: Mapped[list[ComparisonArm]] = relationship(order_by="ComparisonArm.id")


class ComparisonArm(Base):
    """One trained or untrained candidate of an arm: a seed and a point of its own knobs."""

    __tablename__ = "comparison_arms"
    __table_args__ = (UniqueConstraint("comparison_id", "arm", "seed", "point"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparisons.id", ondelete="CASCADE"))
    arm: Mapped[str] = mapped_column(Text)
    """reference, prompt, dpo, kto_paired or kto_all."""
    seed: Mapped[int]
    point: Mapped[int] = mapped_column(server_default=text("0"))
    """Number of the knobs in the arm's grid."""
    knobs: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"), index=True)
    checkpoint_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.id", ondelete="SET NULL"))
    """The checkpoint chosen on DEV."""
    is_chosen: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether its knobs were the arm's best on DEV; only these are judged on TEST."""
    summary: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    run: Mapped[Run | None] = relationship(foreign_keys=[run_id])


class AbTest(Base):
    """Two arms' answers to the same prompts, judged blind by people."""

    __tablename__ = "ab_tests"
    __table_args__ = (Index("ix_ab_tests_project_id_id", "project_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    comparison_id: Mapped[int | None] = mapped_column(ForeignKey("comparisons.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(Text)
    instructions: Mapped[str] = mapped_column(Text, server_default=text("''"))
    arm_a: Mapped[str] = mapped_column(Text)
    arm_b: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, server_default=text("'open'"))
    """open or closed; names of the arms are shown only once it is closed."""
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    closed_at: Mapped[datetime | None]


class AbItem(Base):
    __tablename__ = "ab_items"
    __table_args__ = (UniqueConstraint("test_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    test_id: Mapped[int] = mapped_column(ForeignKey("ab_tests.id", ondelete="CASCADE"))
    number: Mapped[int]
    prompt: Mapped[list[Any]] = mapped_column()
    category: Mapped[str] = mapped_column(Text, server_default=text("''"))
    text_a: Mapped[str] = mapped_column(Text)
    text_b: Mapped[str] = mapped_column(Text)
    repeat_of: Mapped[int | None] = mapped_column(ForeignKey("ab_items.id", ondelete="CASCADE"))
    """A tenth comes again with the sides swapped: does a rater agree with themselves?"""


class AbVote(Base):
    __tablename__ = "ab_votes"
    __table_args__ = (UniqueConstraint("item_id", "user_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("ab_items.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    choice: Mapped[str] = mapped_column(Text)
    """a, b or tie."""
    left: Mapped[str] = mapped_column(Text)
    """Which arm stood on the left: a or b."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
