"""Prompts, completions, ratings, annotation queues and imports."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, Text, UniqueConstraint, func
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.db import Base


class Prompt(Base):
    """What the model was asked. One row per distinct content in a project."""

    __tablename__ = "prompts"
    __table_args__ = (
        UniqueConstraint("project_id", "content_hash"),
        Index("ix_prompts_project_id_category_id", "project_id", "category", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    content_hash: Mapped[str] = mapped_column(Text)
    """SHA-256 over canonical messages, category and conversation id."""
    messages: Mapped[list[Any]] = mapped_column()
    """Chat messages [{"role", "content", …}], tool calls and multi-part content as they came."""
    category: Mapped[str | None] = mapped_column(Text)
    conversation_id: Mapped[str | None] = mapped_column(Text)
    root: Mapped[str] = mapped_column(Text)
    """Hash of the conversation root: its id, else system message + first user turn. The unit of splits."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Completion(Base):
    """What a model answered. One row per distinct answer of a model to a prompt."""

    __tablename__ = "completions"
    __table_args__ = (
        UniqueConstraint("project_id", "content_hash"),
        Index(
            "uq_completions_project_id_external_id",
            "project_id",
            "external_id",
            unique=True,
            postgresql_where=sql("external_id IS NOT NULL"),
        ),
        Index("ix_completions_project_id_id", "project_id", "id"),
        Index("ix_completions_project_id_model_id", "project_id", "model", "id"),
        Index("ix_completions_corrects_id", "corrects_id", postgresql_where=sql("corrects_id IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id", ondelete="CASCADE"), index=True)
    content_hash: Mapped[str] = mapped_column(Text)
    """SHA-256 over the prompt's hash, canonical messages, model and finish_reason."""
    messages: Mapped[list[Any]] = mapped_column()
    """Usually one assistant message."""
    text: Mapped[str] = mapped_column(Text)
    """Plain text of the messages, for lists and search."""
    model: Mapped[str | None] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(Text)
    """As the app said: stop, length, tool_calls, …  `length` means that generation was cut."""
    external_id: Mapped[str | None] = mapped_column(Text)
    """The app's own id of this output."""
    sampling: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    """How it was generated: temperature, top_p, max_tokens, seed, … as the app said."""
    corrects_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("completions.id", ondelete="SET NULL"))
    """The completion of which this is a person's edit."""
    pii: Mapped[dict[str, Any] | None]
    """Personal data found in prompt and completion when it came in: {"email": count, …}; None: not looked for."""
    extra: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=sql("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    prompt: Mapped[Prompt] = relationship()


class Rating(Base):
    """One rater's thumb on one completion. Append-only: a later one supersedes it, un-click retracts it."""

    __tablename__ = "ratings"
    __table_args__ = (
        Index(
            "uq_ratings_current",
            "project_id",
            "source",
            "rater",
            "completion_id",
            unique=True,
            postgresql_where=sql("is_current"),
        ),
        Index(
            "uq_ratings_current_external_id",
            "project_id",
            "source",
            "external_id",
            unique=True,
            postgresql_where=sql("is_current AND external_id IS NOT NULL"),
        ),
        Index("ix_ratings_completion_id", "completion_id"),
        Index("ix_ratings_project_id_source_rater_id", "project_id", "source", "rater", "id"),
        Index("ix_ratings_bulk_id", "bulk_id", postgresql_where=sql("bulk_id IS NOT NULL")),
        Index("ix_ratings_project_id_id", "project_id", "id"),
        Index("ix_ratings_project_id_created_at", "project_id", "created_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    completion_id: Mapped[int] = mapped_column(ForeignKey("completions.id", ondelete="CASCADE"))
    source: Mapped[str] = mapped_column(Text)
    """Where it came from: annotation, playground, import, or the name of the app's API key source."""
    rater: Mapped[str] = mapped_column(Text)
    """Who: `user:<id>` for people with an account, else what the source says, else by `rater_key`."""
    value: Mapped[bool]
    """True = up."""
    reasons: Mapped[list[Any]] = mapped_column(server_default=sql("'[]'::jsonb"))
    comment: Mapped[str | None] = mapped_column(Text)
    external_id: Mapped[str | None] = mapped_column(Text)
    """The feedback's own id in the app."""
    correction_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("completions.id", ondelete="SET NULL"))
    """The rater's edit of the completion, which is a completion of its own with a rating of theirs."""
    bulk_id: Mapped[int | None] = mapped_column(ForeignKey("bulk_labels.id", ondelete="SET NULL"))
    """The bulk label that gave this rating."""
    extra: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=sql("'{}'::jsonb"))
    is_current: Mapped[bool] = mapped_column(server_default=sql("true"))
    """False once superseded or taken back."""
    retracted_at: Mapped[datetime | None]
    occurred_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    completion: Mapped[Completion] = relationship(foreign_keys=completion_id)


class AnnotationQueue(Base):
    __tablename__ = "annotation_queues"
    __table_args__ = (UniqueConstraint("project_id", "slug"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    slug: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    instructions: Mapped[str] = mapped_column(Text, server_default=sql("''"))
    overlap: Mapped[int] = mapped_column(server_default=sql("1"))
    """How many different raters each completion wants."""
    filter: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    """Which completions lie in it: model, category, source, state (unrated, split, low_coverage); empty: all."""
    gold_rate: Mapped[float] = mapped_column(server_default=sql("0.05"))
    """Share of items that are hidden gold items, as far as there are any that the rater has not had."""
    is_open: Mapped[bool] = mapped_column(server_default=sql("true"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class AnnotationSlot(Base):
    """One wanted verdict. The claim is written on this row itself, so two people never hold the same slot."""

    __tablename__ = "annotation_slots"
    __table_args__ = (
        Index(
            "uq_annotation_slots_number",
            "queue_id",
            "completion_id",
            "number",
            unique=True,
            postgresql_where=sql("gold_id IS NULL"),
        ),
        Index(
            "uq_annotation_slots_gold",
            "gold_id",
            "gold_for",
            unique=True,
            postgresql_where=sql("gold_id IS NOT NULL"),
        ),
        Index("ix_annotation_slots_open", "queue_id", "priority", "id", postgresql_where=sql("done_at IS NULL")),
        Index(
            "ix_annotation_slots_claimed_by", "claimed_by", "queue_id", postgresql_where=sql("claimed_by IS NOT NULL")
        ),
        Index("ix_annotation_slots_done_by", "queue_id", "done_by", "done_at"),
        Index("ix_annotation_slots_completion_id", "completion_id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    queue_id: Mapped[int] = mapped_column(ForeignKey("annotation_queues.id", ondelete="CASCADE"))
    completion_id: Mapped[int] = mapped_column(ForeignKey("completions.id", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(server_default=sql("0"))
    """0 … overlap - 1."""
    priority: Mapped[int] = mapped_column(server_default=sql("0"))
    """Lower comes first."""
    claimed_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    claimed_until: Mapped[datetime | None]
    done_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    done_at: Mapped[datetime | None]
    rating_id: Mapped[int | None] = mapped_column(ForeignKey("ratings.id", ondelete="SET NULL"), index=True)
    """None when done by skipping."""
    skip_reason: Mapped[str | None] = mapped_column(Text)
    took_ms: Mapped[int | None]
    """Time the item was on screen before the verdict, as the page measured it."""
    gold_id: Mapped[int | None] = mapped_column(ForeignKey("gold_items.id", ondelete="CASCADE"))
    gold_for: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    """A hidden gold item is made for one person, once."""
    gold_answer: Mapped[bool | None]
    """Their verdict on it: it measures them and is no rating."""


class Import(Base):
    """One import of a file, with what became of every row. Nothing of it is seen before it has succeeded."""

    __tablename__ = "imports"
    __table_args__ = (Index("ix_imports_project_id_id", "project_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    filename: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, server_default=sql("'succeeded'"))
    """draft (uploaded, looked at, not started), queued, staging, publishing, succeeded, failed, cancelled."""
    format: Mapped[str] = mapped_column(Text, server_default=sql("'jsonl'"))
    """Name of the importer."""
    options: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    """The mapping of columns and what else the importer was told."""
    preview: Mapped[dict[str, Any] | None]
    """The dry run: first rows as they would be stored, and what is wrong with others."""
    path: Mapped[str | None] = mapped_column(Text)
    """The uploaded file, under the artifacts; None once it is done."""
    size_bytes: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    num_rows: Mapped[int] = mapped_column(server_default=sql("0"))
    """Rows read so far."""
    num_published: Mapped[int] = mapped_column(server_default=sql("0"))
    bytes_read: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    num_created: Mapped[int] = mapped_column(server_default=sql("0"))
    num_updated: Mapped[int] = mapped_column(server_default=sql("0"))
    num_duplicate: Mapped[int] = mapped_column(server_default=sql("0"))
    num_rejected: Mapped[int] = mapped_column(server_default=sql("0"))
    rejected: Mapped[list[Any]] = mapped_column(server_default=sql("'[]'::jsonb"))
    """First 1,000 rejected rows: [{"line": int, "reason": str}]."""
    error: Mapped[str | None] = mapped_column(Text)
    attempt: Mapped[int] = mapped_column(server_default=sql("0"))
    lease_until: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(server_default=sql("false"))
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class ImportRow(Base):
    """A checked row of an import that has not been published yet."""

    __tablename__ = "import_rows"

    import_id: Mapped[int] = mapped_column(ForeignKey("imports.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """Line or row of the file, counted from 1; two items of one row (a pair) are ``2 n`` and ``2 n + 1`` of a counter."""
    line: Mapped[int] = mapped_column(BigInteger)
    item: Mapped[dict[str, Any]]
