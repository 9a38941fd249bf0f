"""One-time links: first start (makes the owner), invitation (sets a password), sign-in (the demo's).

Opening a link only shows a form; the POST uses it up, in one UPDATE that a second request cannot win.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.service import check_password, create_user, set_password
from app.core.clock import utcnow
from app.core.errors import ConflictError, NotFoundError
from app.core.security import hash_token, new_token
from app.models import LoginLink, User

Purpose = Literal["first_start", "invite", "sign_in"]
_FIRST_START_LOCK = 0x6B746F31


@dataclass(frozen=True, slots=True)
class NewAccount:
    """What the forms behind a link ask for; a sign-in link needs none of it."""

    name: str = ""
    email: str = ""
    password: str = ""
    confirm: str = ""


def first_start_needed(db: Session) -> bool:
    """True as long as nobody has an account."""
    return db.scalar(select(User.id).limit(1)) is None


def make_link(db: Session, purpose: str, user: User | None = None, hours: int = 24) -> str:
    """Returns the token for ``/start/<token>``; the database keeps its hash. Ends unused links of the same kind."""
    assert purpose in get_args(Purpose), purpose
    assert (user is None) == (purpose == "first_start"), "an owner is made, anybody else is there already"
    same_user = LoginLink.user_id.is_(None) if user is None else LoginLink.user_id == user.id
    db.execute(delete(LoginLink).where(LoginLink.purpose == purpose, same_user, LoginLink.used_at.is_(None)))
    token = new_token()
    db.add(
        LoginLink(
            token_hash=hash_token(token),
            purpose=purpose,
            user_id=user.id if user else None,
            expires_at=utcnow() + timedelta(hours=hours),
        )
    )
    db.flush()
    return token


def find_link(db: Session, token: str) -> LoginLink:
    """Raises NotFoundError where it is unknown, used or expired."""
    link = db.scalar(
        select(LoginLink).where(
            LoginLink.token_hash == hash_token(token), LoginLink.used_at.is_(None), LoginLink.expires_at > utcnow()
        )
    )
    if link is None:
        raise _ended()
    return link


def accept_link(db: Session, token: str, form: NewAccount) -> User:
    """Do what the link is for and use it up. Returns the person to sign in.

    Raises NotFoundError (used, expired), InvalidError (the link stays good), ConflictError (an owner exists already).
    """
    link = find_link(db, token)
    if link.purpose != "sign_in":
        check_password(form.password, form.confirm)
    with db.begin_nested():
        _use_up(db, token)
        if link.purpose == "first_start":
            user = _make_owner(db, form)
        else:
            user = db.get_one(User, link.user_id)
            if link.purpose == "invite":
                set_password(db, user, form.password)
        if not user.is_active:
            raise _ended()
        audit.record(db, "link.used", user_id=user.id, subject=user.email, purpose=link.purpose)
        return user


def _use_up(db: Session, token: str) -> None:
    now = utcnow()
    won = db.scalar(
        update(LoginLink)
        .where(LoginLink.token_hash == hash_token(token), LoginLink.used_at.is_(None), LoginLink.expires_at > now)
        .values(used_at=now)
        .returning(LoginLink.token_hash)
        .execution_options(synchronize_session=False)
    )
    if won is None:
        raise _ended()


def _make_owner(db: Session, form: NewAccount) -> User:
    db.execute(select(func.pg_advisory_xact_lock(_FIRST_START_LOCK)))  # two links must not make two owners
    if not first_start_needed(db):
        raise ConflictError("This installation has an owner already.", remedy="Sign in, or ask the owner to add you.")
    return create_user(db, form.email, form.name, form.password, is_owner=True)


def _ended() -> NotFoundError:
    return NotFoundError(
        "This link was used already or has expired.",
        remedy="Sign in, or ask for a new link: `kto user link <address>` prints one.",
    )
