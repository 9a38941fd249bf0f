"""Presigned feedback links for e-mail: one completion, one rater, an expiry. Nothing is stored until somebody confirms.

The token holds what it is about and an HMAC over it, with a key of its own that is derived from the installation's secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.core.errors import NotFoundError
from app.core.security import secret_key
from app.feedback.pii import policy_of, screen_values
from app.feedback.ratings import rate, rater_key, retract
from app.models import ApiKey, Completion, Project, Rating

SOURCE = "link"
DEFAULT_HOURS = 24
MAX_HOURS = 24 * 90
_PURPOSE = b"feedback-link:1:"
_MAX_CHARS = 1500


@dataclass(frozen=True, slots=True)
class Link:
    """What a link says. ``value``: the verdict that its page begins with."""

    project_id: int
    completion_id: int
    key_id: int
    """The API key that made it: revoking the key ends its links."""
    value: bool
    rater: str
    expires_at: datetime


def _seal(payload: bytes) -> bytes:
    return hmac.new(secret_key(), _PURPOSE + payload, hashlib.sha256).digest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def write_token(link: Link) -> str:
    fields = [link.project_id, link.completion_id, link.key_id, int(link.value), link.rater]
    payload = json.dumps([*fields, int(link.expires_at.timestamp())], separators=(",", ":")).encode()
    return f"{_text(payload)}.{_text(_seal(payload))}"


def read_token(token: str) -> Link:
    """Raises NotFoundError: in one way where it was altered, in another where its time is over."""
    try:
        if len(token) > _MAX_CHARS or not token.isascii():
            raise ValueError
        payload, seal = (_bytes(part) for part in token.split("."))
        if not hmac.compare_digest(seal, _seal(payload)) or token != f"{_text(payload)}.{_text(seal)}":
            raise ValueError
        project_id, completion_id, key_id, value, rater, ends = json.loads(payload)
    except ValueError:
        raise NotFoundError("This link is not complete.", remedy="Open it again from the message it came in.") from None
    link = Link(project_id, completion_id, key_id, bool(value), rater, datetime.fromtimestamp(ends, UTC))
    if link.expires_at <= utcnow():
        raise NotFoundError("This link has expired.", remedy="Feedback could be given until its time was over.")
    return link


def make_links(
    db: Session,
    project: Project,
    key: ApiKey,
    external_id: str,
    *,
    rater: str | None = None,
    hours: int = DEFAULT_HOURS,
) -> tuple[str, str, datetime]:
    """Tokens of the link up and the link down, and when both end. Raises NotFoundError where the output is not stored."""
    query = select(Completion.id).where(Completion.project_id == project.id, Completion.external_id == external_id)
    completion_id = db.scalar(query)
    if completion_id is None:
        raise NotFoundError("There is no output with this id.", remedy="Send the output first.")
    who = rater_key(rater, completion_id=external_id, value=True)
    ends = (utcnow() + timedelta(hours=hours)).replace(microsecond=0)
    if key.expires_at is not None:  # a link is the key's word: it does not outlive it
        ends = min(ends, key.expires_at.replace(microsecond=0))
    up, down = (write_token(Link(project.id, completion_id, key.id, value, who, ends)) for value in (True, False))
    return up, down, ends


@dataclass(frozen=True, slots=True)
class Opened:
    """A link with what it is about."""

    link: Link
    project: Project
    completion: Completion
    rating: Rating | None
    """What its rater has said so far."""


def open_link(db: Session, token: str) -> Opened:
    """Raises NotFoundError where it was altered, has expired, its key was revoked or its completion erased."""
    link = read_token(token)
    query = (
        select(Project, Completion)
        .join(Completion, Completion.project_id == Project.id)
        .join(ApiKey, ApiKey.project_id == Project.id)
        .where(Project.id == link.project_id, Completion.id == link.completion_id)
        .where(ApiKey.id == link.key_id, ApiKey.revoked_at.is_(None))
    )
    found = db.execute(query).one_or_none()
    if found is None:
        raise NotFoundError("This link has ended.", remedy="The answer it was about is no longer open for feedback.")
    current = select(Rating).where(
        Rating.project_id == link.project_id,
        Rating.source == SOURCE,
        Rating.rater == link.rater,
        Rating.completion_id == link.completion_id,
        Rating.is_current,
    )
    return Opened(link, found[0], found[1], db.scalar(current))


def confirm(db: Session, opened: Opened, value: bool, comment: str) -> None:
    """Store the verdict; another one of the same rater before is replaced. The comment is screened as those of apps are."""
    link = opened.link
    words: str | None
    changed, _ = screen_values(policy_of(opened.project), {"comment": comment})
    words = changed.get("comment", comment)
    if not words and not (opened.rating and opened.rating.comment):
        words = None  # nothing was said; an empty text takes back what was
    rate(db, link.project_id, link.completion_id, source=SOURCE, rater=link.rater, value=value, comment=words)


def take_back(db: Session, opened: Opened) -> None:
    """Twice is harmless."""
    if opened.rating is not None:
        retract(db, opened.link.project_id, opened.rating.id)
