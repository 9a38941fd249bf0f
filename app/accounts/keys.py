"""API keys of a project: made with scopes and an expiry, shown once, stored as a hash, revoked by name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.audit import record
from app.core.clock import utcnow
from app.core.errors import InvalidError, NotFoundError
from app.core.security import hash_token, new_token
from app.models import ApiKey, Project, User

SCOPES = ("feedback:write", "feedback:read", "version:read")
MAX_DAYS = 3650
_PREFIX = 10


def list_keys(db: Session, project: Project) -> Sequence[ApiKey]:
    """Newest first, revoked and expired ones too."""
    return db.scalars(select(ApiKey).where(ApiKey.project_id == project.id).order_by(ApiKey.id.desc())).all()


def create_key(
    db: Session,
    project: Project,
    name: str,
    scopes: Sequence[str] = SCOPES,
    *,
    expires_in_days: int | None = 365,
    user: User | None = None,
) -> tuple[ApiKey, str]:
    """The stored key and its token; the token is never seen again. None days: it does not expire.

    Raises InvalidError for an empty name, an unknown scope or none, or a number of days out of range.
    """
    fields: dict[str, str] = {}
    name = name.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        fields["name"] = "1 to 100 characters, such as the app's name"
    chosen = [scope for scope in SCOPES if scope in scopes]
    if not chosen or len(chosen) != len(set(scopes)):
        fields["scopes"] = f"at least one of {', '.join(SCOPES)}"
    if expires_in_days is not None and not 1 <= expires_in_days <= MAX_DAYS:
        fields["expires_in_days"] = f"1 to {MAX_DAYS} days"
    if fields:
        raise InvalidError("The key was not created.", fields=fields)
    token = "kto_" + new_token()
    key = ApiKey(
        project_id=project.id,
        name=name,
        prefix=token[:_PREFIX],
        key_hash=hash_token(token),
        scopes=chosen,
        created_by=user.id if user else None,
        expires_at=utcnow() + timedelta(days=expires_in_days) if expires_in_days is not None else None,
    )
    db.add(key)
    db.flush()
    record(
        db,
        "key.created",
        project_id=project.id,
        user_id=user.id if user else None,
        subject=key.name,
        prefix=key.prefix,
        scopes=chosen,
    )
    return key, token


def revoke_key(db: Session, project: Project, key_id: int, *, user: User | None = None) -> ApiKey:
    """From now on the key is refused. Twice is harmless. Raises NotFoundError, also for another project's key."""
    query = select(ApiKey).where(ApiKey.project_id == project.id, ApiKey.id == key_id).with_for_update()
    key = db.scalar(query)
    if key is None:
        raise NotFoundError("There is no such key in this project.")
    if key.revoked_at is None:
        key.revoked_at = utcnow()
        db.flush()
        record(
            db,
            "key.revoked",
            project_id=project.id,
            user_id=user.id if user else None,
            subject=key.name,
            prefix=key.prefix,
        )
    return key
