"""Delivers what is due: at least once, with the same ``webhook-id`` at every try.

A delivery is claimed by moving ``due_at`` to the end of a lease; a worker that dies leaves it due again, one that overslept
finds another ``due_at`` and writes nothing. Each webhook's events go one after another; when its server is down the others of
the batch wait with the one that failed, so that a dead receiver costs one call per pause. The order is not promised.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock

import httpx
from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session, joinedload

from app.accounts import audit
from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.errors import StudioError
from app.models import OutboxEvent, Webhook, WebhookDelivery
from app.webhooks.events import heard
from app.webhooks.secrets import secrets_of
from app.webhooks.sending import GONE, MAX_KEPT_CHARS, Answer, new_client, send

log = logging.getLogger(__name__)

PAUSES = (5, 30, 120, 600, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 12 * 3600, 18 * 3600, 24 * 3600)
"""Seconds after each failed try, ± 20 %: about three days; after the last the delivery is given up."""
LEASE_SECONDS = 120.0
BATCH = 25
"""Of one webhook in one claim."""
MAX_WEBHOOKS = 16
"""Called at the same time."""
ROUND_SECONDS = 30.0
"""A task ends then: others wait for its thread, and the clock rings again."""
_one_at_a_time = Lock()


@dataclass(frozen=True, slots=True)
class Claim:
    delivery_id: int
    token: datetime
    """The lease's end."""
    attempts: int
    event: OutboxEvent
    url: str
    signers: list[str]


def deliver_due() -> int:
    """Calls every webhook that has something due, until nothing is or half a minute is over. Returns the calls made."""
    if not _one_at_a_time.acquire(blocking=False):
        return 0  # this process is at it
    try:
        heard()
        end, calls = time.monotonic() + ROUND_SECONDS, 0
        while time.monotonic() < end:
            with session_scope() as db:
                hooks = due_webhooks(db)
            if not hooks:
                break
            calls += asyncio.run(_round(hooks))
        return calls
    finally:
        _one_at_a_time.release()


async def _round(hooks: list[int]) -> int:
    return sum(await asyncio.gather(*(_work_through(hook) for hook in hooks)))


async def _work_through(webhook_id: int) -> int:
    try:
        with session_scope() as db:
            claims = claim(db, webhook_id)
    except StudioError as error:
        log.warning("Webhook %s cannot be signed for: %s", webhook_id, error)
        with session_scope() as db:
            disable(db, webhook_id, f"{error.message} Rotate the secret.")
        return 0
    end, calls = time.monotonic() + LEASE_SECONDS - 20, 0
    async with new_client() as client:
        for index, item in enumerate(claims):
            answer = await _call(client, item)
            calls += 1
            with session_scope() as db:
                next_try = settle(db, item, answer)
                if answer.is_down or answer.status == GONE or time.monotonic() > end:
                    postpone(db, claims[index + 1 :], next_try if answer.is_down else utcnow())
                    break
    return calls


async def _call(client: httpx.AsyncClient, item: Claim) -> Answer:
    return await send(client, item.url, item.signers, item.event)


def due_webhooks(db: Session) -> list[int]:
    query = (
        select(WebhookDelivery.webhook_id)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(WebhookDelivery.status == "pending", WebhookDelivery.due_at <= utcnow(), Webhook.is_enabled)
        .distinct()
        .limit(MAX_WEBHOOKS)
    )
    return list(db.scalars(query))


def claim(db: Session, webhook_id: int, delivery_id: int | None = None) -> list[Claim]:
    """The next deliveries of a webhook, or this one, now ours until their lease ends."""
    now = utcnow()
    until = now + timedelta(seconds=LEASE_SECONDS)
    due = select(WebhookDelivery.id).where(
        WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.status == "pending", WebhookDelivery.due_at <= now
    )
    if delivery_id is not None:
        due = due.where(WebhookDelivery.id == delivery_id)
    due = due.order_by(WebhookDelivery.due_at, WebhookDelivery.id).limit(BATCH).with_for_update(skip_locked=True)
    ids = list(
        db.scalars(
            update(WebhookDelivery)
            .where(WebhookDelivery.id.in_(due.scalar_subquery()))
            .values(due_at=until)
            .returning(WebhookDelivery.id)
            .execution_options(synchronize_session=False)
        )
    )
    if not ids:
        return []
    query = (
        select(WebhookDelivery)
        .options(joinedload(WebhookDelivery.event), joinedload(WebhookDelivery.webhook))
        .where(WebhookDelivery.id.in_(ids))
        .order_by(WebhookDelivery.id)
        .execution_options(populate_existing=True)
    )
    rows = db.scalars(query).all()
    signers = secrets_of(rows[0].webhook)
    return [Claim(row.id, until, row.attempts, row.event, row.webhook.url, signers) for row in rows]


def settle(db: Session, item: Claim, answer: Answer) -> datetime:
    """Write what a call came to. Returns when the next try is, where there is one."""
    attempts = item.attempts + 1
    given_up = not answer.taken and attempts > len(PAUSES)
    pause = max(PAUSES[min(attempts, len(PAUSES)) - 1] * random.uniform(0.8, 1.2), min(answer.retry_after, 3600.0))
    next_try = utcnow() + timedelta(seconds=pause)
    status = "delivered" if answer.taken else "failed" if given_up else "pending"
    written = db.scalar(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == item.delivery_id,
            WebhookDelivery.status == "pending",
            WebhookDelivery.due_at == item.token,
        )
        .values(
            status=status,
            attempts=attempts,
            due_at=next_try,
            answer_status=answer.status,
            answer=answer.text[:MAX_KEPT_CHARS],
            delivered_at=utcnow() if answer.taken else None,
        )
        .returning(WebhookDelivery.webhook_id)
        .execution_options(synchronize_session=False)
    )
    if written is not None and answer.status == GONE:
        disable(db, written, "Its server answered 410: it does not want these events any more.")
    elif written is not None and given_up:
        _disable_if_dead(db, written, item.event)
    return next_try


def postpone(db: Session, claims: list[Claim], until: datetime) -> None:
    """Those that were claimed with one that failed wait with it; their tries are not counted."""
    if claims:
        db.execute(
            update(WebhookDelivery)
            .where(
                WebhookDelivery.id.in_([item.delivery_id for item in claims]),
                WebhookDelivery.status == "pending",
                WebhookDelivery.due_at == claims[0].token,
            )
            .values(due_at=until)
            .execution_options(synchronize_session=False)
        )


def _disable_if_dead(db: Session, webhook_id: int, event: OutboxEvent) -> None:
    """Nothing was taken since the event that was given up: days of failing."""
    taken = select(WebhookDelivery.id).where(
        WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.delivered_at >= event.created_at
    )
    if not db.scalar(select(exists(taken))):
        disable(db, webhook_id, "It took no event for three days.")


def disable(db: Session, webhook_id: int, reason: str) -> None:
    """Nothing is sent any more; what waits is held until someone enables it again."""
    row = db.scalar(
        update(Webhook)
        .where(Webhook.id == webhook_id, Webhook.is_enabled)
        .values(is_enabled=False, disabled_reason=reason)
        .returning(Webhook)
        .execution_options(populate_existing=True)
    )
    if row is None:
        return
    hold(db, webhook_id)
    audit.record(db, "webhook.disabled", project_id=row.project_id, subject=f"webhook {row.id}", reason=reason)
    log.warning("Webhook %s is disabled: %s", webhook_id, reason)


def hold(db: Session, webhook_id: int) -> None:
    db.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.status == "pending")
        .values(status="held")
        .execution_options(synchronize_session=False)
    )
