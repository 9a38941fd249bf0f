"""What collection keeps beside prompts, completions and ratings: counts, search, feedback that waits, keys of requests, erasures."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Computed, ForeignKey, Identity, Index, SmallInteger, Text, UniqueConstraint, func
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base

UNRATED, UP, DOWN, TIED = 0, 1, 2, 3
"""Values of ``CompletionVotes.state``."""


class CompletionVotes(Base):
    """Current ratings of a completion, counted. Written by triggers on ``completions`` and ``ratings``, never by the app."""

    __tablename__ = "completion_votes"
    __table_args__ = (
        Index("ix_completion_votes_state", "project_id", "state", "completion_id"),
        Index(
            "ix_completion_votes_split",
            "project_id",
            "completion_id",
            postgresql_where=sql("ups > 0 AND downs > 0"),
        ),
    )

    completion_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("completions.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    project_id: Mapped[int]
    ups: Mapped[int] = mapped_column(server_default=sql("0"))
    downs: Mapped[int] = mapped_column(server_default=sql("0"))
    state: Mapped[int] = mapped_column(
        SmallInteger,
        Computed("CASE WHEN ups > downs THEN 1 WHEN downs > ups THEN 2 WHEN ups > 0 THEN 3 ELSE 0 END", persisted=True),
    )
    """0 unrated, 1 desirable, 2 undesirable (by majority), 3 tied."""


class CompletionSearch(Base):
    """Words of a completion and its last question. Filled in the background, so that ingest does not wait for it."""

    __tablename__ = "completion_search"
    __table_args__ = (Index("ix_completion_search_document", "document", postgresql_using="gin"),)

    completion_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("completions.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    project_id: Mapped[int]
    document: Mapped[Any] = mapped_column(TSVECTOR)


class CompletionSubject(Base):
    """Whose words a completion's prompt holds: the person who asked, by the app's name for them. Several may ask the same."""

    __tablename__ = "completion_subjects"
    __table_args__ = (Index("ix_completion_subjects_completion_id", "completion_id"),)

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    subject: Mapped[str] = mapped_column(Text, primary_key=True)
    completion_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("completions.id", ondelete="CASCADE"), primary_key=True
    )


class PendingFeedback(Base):
    """A thumb on an output that has not come yet. Joined when it comes; the newest word of a rater replaces the one before."""

    __tablename__ = "pending_feedback"
    __table_args__ = (
        UniqueConstraint("project_id", "source", "rater", "completion_external_id"),
        Index(
            "uq_pending_feedback_external_id",
            "project_id",
            "source",
            "external_id",
            unique=True,
            postgresql_where=sql("external_id IS NOT NULL"),
        ),
        Index("ix_pending_feedback_target", "project_id", "completion_external_id"),
        Index("ix_pending_feedback_created_at", "project_id", "created_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    source: Mapped[str] = mapped_column(Text)
    rater: Mapped[str] = mapped_column(Text)
    completion_external_id: Mapped[str] = mapped_column(Text)
    """The app's id of the output."""
    external_id: Mapped[str | None] = mapped_column(Text)
    """The feedback's own id."""
    item: Mapped[dict[str, Any]]
    """The verdict as it was sent and checked: value, reasons, comment, correction, occurred_at, metadata."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IdempotencyKey(Base):
    """One answered request of the API. Kept 24 hours: the same key again gets the same answer, with another body 409."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    request_hash: Mapped[str] = mapped_column(Text)
    """SHA-256 over method, path and body."""
    status: Mapped[int | None] = mapped_column(SmallInteger)
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class GoldItem(Base):
    """A completion whose right verdict a lead has said. Mixed unmarked into queues; its answers are no ratings."""

    __tablename__ = "gold_items"
    __table_args__ = (UniqueConstraint("project_id", "completion_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    completion_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("completions.id", ondelete="CASCADE"), index=True)
    value: Mapped[bool]
    note: Mapped[str] = mapped_column(Text, server_default=sql("''"))
    """Why: shown to the rater's lead, never to the rater."""
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    retired_at: Mapped[datetime | None]


class BulkLabel(Base):
    """One verdict on everything that a filter found; its ratings name it, so that one step takes them all back."""

    __tablename__ = "bulk_labels"
    __table_args__ = (Index("ix_bulk_labels_project_id_id", "project_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    filter: Mapped[dict[str, Any]]
    value: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text, server_default=sql("''"))
    num_labelled: Mapped[int] = mapped_column(server_default=sql("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    undone_at: Mapped[datetime | None]


class RaterSetting(Base):
    """What a lead decided about one rater: how much their ratings weigh, or that they do not count."""

    __tablename__ = "rater_settings"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    source: Mapped[str] = mapped_column(Text, primary_key=True)
    rater: Mapped[str] = mapped_column(Text, primary_key=True)
    weight: Mapped[float] = mapped_column(server_default=sql("1"))
    """0: left out of labels."""
    reason: Mapped[str] = mapped_column(Text, server_default=sql("''"))
    decided_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    decided_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ReferenceCheck(Base):
    """How likely a base model finds the collected completions, by the model that wrote them: off-policy data stands out."""

    __tablename__ = "reference_checks"
    __table_args__ = (Index("ix_reference_checks_project_id_id", "project_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    base_model: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, server_default=sql("'queued'"))
    """queued, running, succeeded, failed."""
    attempt: Mapped[int] = mapped_column(server_default=sql("0"))
    lease_until: Mapped[datetime | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Erasure(Base):
    """A person's texts, or what had grown too old, taken out everywhere. Says what was hit; holds no text and no name."""

    __tablename__ = "erasures"
    __table_args__ = (Index("ix_erasures_project_id_id", "project_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(Text)
    """rater, subject, completion or retention."""
    who_hash: Mapped[str] = mapped_column(Text)
    """Keyed hash of the name, so that a second request of the same person is recognised."""
    status: Mapped[str] = mapped_column(Text, server_default=sql("'queued'"))
    """queued, running, done, failed."""
    target: Mapped[dict[str, Any] | None]
    """What is still to be done, encrypted where it names a person; NULL once done."""
    counts: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    affected: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    """Snapshots with old and new hash, runs and versions trained on them."""
    error: Mapped[str | None] = mapped_column(Text)
    lease_until: Mapped[datetime | None]
    requested_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
