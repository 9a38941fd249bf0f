"""Webhooks of a project: made, changed, tried out, rotated, stopped and removed by leads; and the periodic clearing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session, joinedload

from app.accounts import audit
from app.core import outbound
from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.core.pagination import Page, page_of
from app.models import OutboxEvent, Project, User, Webhook, WebhookDelivery
from app.webhooks import delivery, secrets
from app.webhooks.events import TEST, TYPES, ring
from app.webhooks.sending import Answer, new_client, send

MAX_WEBHOOKS = 50
MAX_DESCRIPTION = 200
KEEP = timedelta(days=30)
PER_PAGE = 25
_CLEAR_AT_ONCE = 10_000


def _record(db: Session, webhook: Webhook, action: str, user: User | None, **details: Any) -> None:
    audit.record(
        db,
        f"webhook.{action}",
        project_id=webhook.project_id,
        user_id=user.id if user else None,
        subject=f"webhook {webhook.id}",
        **details,
    )


def list_webhooks(db: Session, project: Project) -> Sequence[Webhook]:
    return db.scalars(select(Webhook).where(Webhook.project_id == project.id).order_by(Webhook.id)).all()


def find_webhook(db: Session, project_id: int, webhook_id: int) -> Webhook:
    """Raises NotFoundError, also for another project's."""
    row = db.scalar(select(Webhook).where(Webhook.project_id == project_id, Webhook.id == webhook_id))
    if row is None:
        raise NotFoundError("There is no such webhook in this project.")
    return row


def create(db: Session, project: Project, typed: Mapping[str, Any], *, user: User | None) -> tuple[Webhook, str]:
    """The webhook and its secret, which is never seen again. ``typed``: url, description, events. Raises InvalidError."""
    values = _checked(typed)
    count = db.scalar(select(func.count()).select_from(Webhook).where(Webhook.project_id == project.id)) or 0
    if count >= MAX_WEBHOOKS:
        raise InvalidError("The webhook was not made.", fields={"": f"A project has at most {MAX_WEBHOOKS} webhooks."})
    row = Webhook(project_id=project.id, created_by=user.id if user else None, **values)
    secret = secrets.set_first(row)
    db.add(row)
    db.flush()
    _record(db, row, "created", user, url=row.url, events=row.events)
    return row, secret


def change(db: Session, webhook: Webhook, typed: Mapping[str, Any], *, user: User | None) -> None:
    for name, value in _checked(typed).items():
        setattr(webhook, name, value)
    db.flush()
    _record(db, webhook, "changed", user, url=webhook.url, events=webhook.events)


def _checked(typed: Mapping[str, Any]) -> dict[str, Any]:
    errors: dict[str, str] = {}
    url, description = str(typed.get("url", "")).strip(), str(typed.get("description", "")).strip()
    chosen = list(typed.get("events", []))
    try:
        outbound.check_url(url)
    except InvalidError as error:
        errors |= error.fields
    if len(description) > MAX_DESCRIPTION or not (description.isprintable()):
        errors["description"] = f"one line of at most {MAX_DESCRIPTION} characters"
    events = [name for name in TYPES if name in chosen]
    if not events or len(events) != len(set(chosen)):
        errors["events"] = "choose at least one kind of event"
    if errors:
        raise InvalidError("The webhook does not fit.", fields=errors)
    return {"url": url, "description": description, "events": events}


def rotate(db: Session, webhook: Webhook, *, user: User | None) -> str:
    """The new secret, seen once. The one before signs beside it for 24 hours."""
    secret = secrets.rotate(webhook)
    db.flush()
    _record(db, webhook, "rotated", user)
    return secret


def enable(db: Session, webhook: Webhook, *, user: User | None) -> None:
    """What was held is sent now. Twice is harmless."""
    if webhook.is_enabled:
        return
    webhook.is_enabled, webhook.disabled_reason = True, None
    db.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.status.in_(("held", "pending")))
        .values(status="pending", due_at=utcnow(), attempts=0)
        .execution_options(synchronize_session=False)
    )
    db.flush()
    _record(db, webhook, "enabled", user)
    ring(db)


def disable(db: Session, webhook: Webhook, *, user: User | None) -> None:
    """No event is written for it any more; what waits is held. Twice is harmless."""
    if not webhook.is_enabled:
        return
    webhook.is_enabled, webhook.disabled_reason = False, "Disabled by hand."
    db.flush()
    delivery.hold(db, webhook.id)
    _record(db, webhook, "disabled", user)


def remove(db: Session, webhook: Webhook, *, user: User | None) -> None:
    _record(db, webhook, "removed", user, url=webhook.url)
    db.delete(webhook)
    db.flush()


def send_test(db: Session, webhook: Webhook, *, user: User | None) -> Answer:
    """One event of the type ``webhook.test``, sent now and tried once, also while the webhook is disabled."""
    data = {"webhook_id": webhook.id, "sent_by": user.id if user else None}
    event = OutboxEvent(project_id=webhook.project_id, type=TEST, data=data)
    db.add(event)
    db.flush()
    db.refresh(event)
    answer = asyncio.run(_send_once(webhook, secrets.secrets_of(webhook), event))
    row = WebhookDelivery(
        webhook_id=webhook.id,
        event_id=event.id,
        status="delivered" if answer.taken else "failed",
        attempts=1,
        answer_status=answer.status,
        answer=answer.text,
        delivered_at=utcnow() if answer.taken else None,
    )
    db.add(row)
    db.flush()
    return answer


async def _send_once(webhook: Webhook, signers: list[str], event: OutboxEvent) -> Answer:
    async with new_client() as client:
        return await send(client, webhook.url, signers, event)


def deliveries(db: Session, webhook: Webhook, before: int | None) -> Page[WebhookDelivery]:
    """Newest first; ``before`` is the last id of the page before."""
    query = (
        select(WebhookDelivery)
        .options(joinedload(WebhookDelivery.event))
        .where(WebhookDelivery.webhook_id == webhook.id)
        .order_by(WebhookDelivery.id.desc())
        .limit(PER_PAGE + 1)
    )
    if before is not None:
        query = query.where(WebhookDelivery.id < before)
    return page_of(db.scalars(query).all(), PER_PAGE, lambda row: row.id)


def counts(db: Session, project: Project) -> dict[int, dict[str, int]]:
    """Deliveries of each webhook by status, as far as they are kept (30 days)."""
    query = (
        select(WebhookDelivery.webhook_id, WebhookDelivery.status, func.count())
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(Webhook.project_id == project.id)
        .group_by(WebhookDelivery.webhook_id, WebhookDelivery.status)
    )
    found: dict[int, dict[str, int]] = {}
    for webhook_id, status, count in db.execute(query):
        found.setdefault(webhook_id, {})[status] = count
    return found


def send_again(db: Session, webhook: Webhook, delivery_id: int, *, user: User | None) -> None:
    """The same event with the same id, from the first try on. Raises NotFoundError, ConflictError while disabled."""
    row = db.scalar(
        select(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.id == delivery_id)
        .with_for_update()
    )
    if row is None:
        raise NotFoundError("There is no such delivery; those older than 30 days are cleared.")
    if not webhook.is_enabled:
        raise ConflictError("The webhook is disabled.", remedy="Enable it first.")
    row.status, row.attempts, row.due_at, row.delivered_at = "pending", 0, utcnow(), None
    db.flush()
    _record(db, webhook, "sent_again", user, delivery_id=delivery_id)
    ring(db)


def clear_old(db: Session) -> int:
    """Events older than 30 days whose deliveries are over, and what was held or failing for so long. Returns how many."""
    over = (
        select(OutboxEvent.id)
        .where(OutboxEvent.created_at < utcnow() - KEEP)
        .where(
            ~exists().where(
                WebhookDelivery.event_id == OutboxEvent.id,
                WebhookDelivery.status == "pending",
                WebhookDelivery.due_at > utcnow() - KEEP,
            )
        )
        .order_by(OutboxEvent.created_at)
        .limit(_CLEAR_AT_ONCE)
    )
    gone = db.execute(delete(OutboxEvent).where(OutboxEvent.id.in_(over)).returning(OutboxEvent.id))
    return len(gone.all())
