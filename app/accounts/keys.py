"""API keys of a project: secret ones for servers, publishable ones for web pages; made, rotated with an overlap, revoked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.audit import record
from app.accounts.origins import parse_origins
from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.core.security import hash_token, new_token
from app.models import ApiKey, Project, User

DEFAULT_SCOPES = ("feedback:write", "feedback:read", "version:read")
SCOPES = (*DEFAULT_SCOPES, "privacy:erase")
SCOPE_WORDS = {
    "feedback:write": "send feedback",
    "feedback:read": "read feedback back",
    "version:read": "read the production version, download its adapter",
    "privacy:erase": "have a person's texts erased",
}
PUBLISHABLE_SCOPES = ("feedback:write",)
Kind = Literal["secret", "publishable"]
_START = {"secret": "kto_", "publishable": "kto_pub_"}
_SHOWN = 6
"""Characters of the random part that lists show."""
MAX_DAYS = 3650
MAX_RATE = 1_000_000
MAX_OVERLAP_HOURS = 24 * 30


def list_keys(db: Session, project: Project) -> Sequence[ApiKey]:
    """Newest first, revoked and expired ones too."""
    return db.scalars(select(ApiKey).where(ApiKey.project_id == project.id).order_by(ApiKey.id.desc())).all()


def _named_otherwise(db: Session, project: Project, name: str, kind: Kind) -> bool:
    """Keys of one name write as one source, so a page's key must not have a server key's name, nor the other way round."""
    others = select(ApiKey.name).where(
        ApiKey.project_id == project.id, ApiKey.kind != kind, ApiKey.revoked_at.is_(None)
    )
    return slug_of(name) in {slug_of(other) for other in db.scalars(others)}


def slug_of(name: str) -> str:
    """A key's name as its ratings' source."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or "api"


def create_key(
    db: Session,
    project: Project,
    name: str,
    scopes: Sequence[str] = DEFAULT_SCOPES,
    *,
    expires_in_days: int | None = 365,
    user: User | None = None,
    kind: Kind = "secret",
    origins: Sequence[str] = (),
    rate_per_minute: int | None = None,
) -> tuple[ApiKey, str]:
    """The stored key and its token; a secret key's token is never seen again. None days: it does not expire.

    A publishable key has the scope to send feedback and no other, whatever ``scopes`` says, and needs ``origins``.
    Raises InvalidError for an empty name, an unknown scope or none, a number of days or of requests out of range, or an origin
    that is none.
    """
    fields: dict[str, str] = {}
    name = name.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        fields["name"] = "1 to 100 characters, such as the app's name"
    wanted = PUBLISHABLE_SCOPES if kind == "publishable" else scopes
    chosen = [scope for scope in SCOPES if scope in wanted]
    if not chosen or len(chosen) != len(set(wanted)):
        fields["scopes"] = f"at least one of {', '.join(SCOPES)}"
    if "name" not in fields and _named_otherwise(db, project, name, kind):
        fields["name"] = "a key of the other kind has this name: one that stands in a page must not speak for a server"
    if expires_in_days is not None and not 1 <= expires_in_days <= MAX_DAYS:
        fields["expires_in_days"] = f"1 to {MAX_DAYS} days"
    if rate_per_minute is not None and not 1 <= rate_per_minute <= MAX_RATE:
        fields["rate_per_minute"] = f"1 to {MAX_RATE:,} requests, or nothing for the usual limit"
    pages: list[str] = []
    if kind == "publishable":
        try:
            pages = parse_origins(origins)
        except InvalidError as error:
            fields |= error.fields
    if fields:
        raise InvalidError("The key was not created.", fields=fields)
    expires_at = utcnow() + timedelta(days=expires_in_days) if expires_in_days is not None else None
    values = {"name": name, "scopes": chosen, "origins": pages, "rate_per_minute": rate_per_minute}
    key, token = _store(db, project, user, {**values, "kind": kind, "expires_at": expires_at})
    _record(db, "key.created", project, key, user, kind=kind, scopes=chosen, origins=pages)
    return key, token


def rotate_key(
    db: Session, project: Project, key_id: int, *, overlap_hours: int = 24, user: User | None = None
) -> tuple[ApiKey, str]:
    """A new key of the same name, scopes, origins, limit and lifetime; the old one ends after the overlap.

    Raises NotFoundError, ConflictError for a key that has ended already, InvalidError for an overlap out of range.
    """
    old = _locked(db, project, key_id)
    if not 0 <= overlap_hours <= MAX_OVERLAP_HOURS:
        raise InvalidError(
            "The key was not rotated.",
            fields={"overlap_hours": f"0 to {MAX_OVERLAP_HOURS} hours; 0 ends the old key now"},
        )
    now = utcnow()
    if has_ended(old):
        raise ConflictError(f"{old.name} has ended already.", remedy="Create a new key instead.")
    lifetime = old.expires_at - old.created_at if old.expires_at else None
    values = {"name": old.name, "scopes": old.scopes, "origins": old.origins, "rate_per_minute": old.rate_per_minute}
    expires_at = now + lifetime if lifetime else None
    key, token = _store(db, project, user, {**values, "kind": old.kind, "expires_at": expires_at})
    ends = now + timedelta(hours=overlap_hours)
    old.expires_at = min(old.expires_at, ends) if old.expires_at else ends
    db.flush()
    _record(db, "key.rotated", project, key, user, replaces=old.prefix, overlap_hours=overlap_hours)
    return key, token


def revoke_key(db: Session, project: Project, key_id: int, *, user: User | None = None) -> ApiKey:
    """From now on the key is refused. Twice is harmless. Raises NotFoundError, also for another project's key."""
    key = _locked(db, project, key_id)
    if key.revoked_at is None:
        key.revoked_at = utcnow()
        db.flush()
        _record(db, "key.revoked", project, key, user)
    return key


def has_ended(key: ApiKey) -> bool:
    """Revoked or expired."""
    return key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= utcnow())


def _locked(db: Session, project: Project, key_id: int) -> ApiKey:
    query = select(ApiKey).where(ApiKey.project_id == project.id, ApiKey.id == key_id).with_for_update()
    key = db.scalar(query)
    if key is None:
        raise NotFoundError("There is no such key in this project.")
    return key


def _store(db: Session, project: Project, user: User | None, values: dict[str, Any]) -> tuple[ApiKey, str]:
    start = _START[values["kind"]]
    token = start + new_token()
    key = ApiKey(
        project_id=project.id,
        prefix=token[: len(start) + _SHOWN],
        key_hash=hash_token(token),
        public_token=token if values["kind"] == "publishable" else None,
        created_by=user.id if user else None,
        **values,
    )
    db.add(key)
    db.flush()
    return key, token


def _record(db: Session, action: str, project: Project, key: ApiKey, user: User | None, **details: Any) -> None:
    user_id = user.id if user else None
    record(db, action, project_id=project.id, user_id=user_id, subject=key.name, prefix=key.prefix, **details)
