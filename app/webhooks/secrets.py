"""The signing secret of a webhook, and after a rotation for a day the one before: receivers change without a gap."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from datetime import datetime, timedelta

from app.core import crypto
from app.core.clock import utcnow
from app.core.security import secret_key
from app.models import OutboxEvent, Webhook

PURPOSE = "webhook secret"
PREFIX = "whsec_"
OVERLAP = timedelta(hours=24)


def _pack(current: str, previous: str = "", until: datetime | None = None) -> bytes:
    kept = {"current": current, "previous": previous, "until": until.isoformat() if until else None}
    return crypto.encrypt(json.dumps(kept), PURPOSE)


def fresh() -> str:
    """``whsec_`` and 32 random bytes in base64, as Standard Webhooks has it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def set_first(webhook: Webhook) -> str:
    secret = fresh()
    webhook.secret = _pack(secret)
    return secret


def rotate(webhook: Webhook) -> str:
    """The new secret; the old one signs beside it for 24 hours."""
    secret = fresh()
    webhook.secret = _pack(secret, secrets_of(webhook)[0], utcnow() + OVERLAP)
    return secret


def secrets_of(webhook: Webhook) -> list[str]:
    """Those that sign now, the newest first. Raises UnavailableError where the installation's key has changed."""
    kept = json.loads(crypto.decrypt(webhook.secret, PURPOSE))
    until = datetime.fromisoformat(kept["until"]) if kept["until"] else None
    return [kept["current"], *([kept["previous"]] if until and utcnow() < until else [])]


def message_id(event: OutboxEvent) -> str:
    """``webhook-id``: the same for every try of an event, and another in every installation."""
    named = f"webhook event {event.id} {event.created_at.timestamp():.6f}".encode()
    return "msg_" + hmac.new(secret_key(), named, hashlib.sha256).hexdigest()[:32]


def signature(signers: list[str], id_: str, seconds: int, body: bytes) -> str:
    """``webhook-signature``: one ``v1,…`` for each secret."""
    signed = f"{id_}.{seconds}.".encode() + body
    keys = [base64.b64decode(secret.removeprefix(PREFIX)) for secret in signers]
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
