"""Webhooks out: addresses, the transactional outbox, deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, LargeBinary, SmallInteger, Text, func
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.db import Base


class Webhook(Base):
    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_project_id", "project_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    url: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text, server_default=sql("''"))
    events: Mapped[list[Any]]
    """Of ``app.webhooks.events.TYPES``."""
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    """Encrypted; Standard Webhooks' ``whsec_…`` when shown, once."""
    is_enabled: Mapped[bool] = mapped_column(server_default=sql("true"))
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class OutboxEvent(Base):
    """Something that happened, written in the transaction in which it happened, where a webhook asks for its type."""

    __tablename__ = "outbox_events"
    __table_args__ = (Index("ix_outbox_events_created_at", "created_at"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    type: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WebhookDelivery(Base):
    """One event for one webhook, until it was taken or given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_due", "due_at", postgresql_where=sql("status = 'pending'")),
        Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("outbox_events.id", ondelete="CASCADE"), index=True)
    status: Mapped[str] = mapped_column(Text, server_default=sql("'pending'"))
    """pending, delivered, failed (given up), held (the webhook is switched off: sent when it is switched on)."""
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=sql("0"))
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When the next try is; while one is under way, when it counts as lost."""
    answer_status: Mapped[int | None]
    answer: Mapped[str | None] = mapped_column(Text)
    """First 500 characters of the answer, or the error, in words."""
    delivered_at: Mapped[datetime | None]
    webhook: Mapped[Webhook] = relationship()
    event: Mapped[OutboxEvent] = relationship()
