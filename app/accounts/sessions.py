"""Server-side sign-in sessions: the cookie holds a random token, the database its hash."""

from __future__ import annotations

from datetime import timedelta

from fastapi import Request, Response
from sqlalchemy import bindparam, delete, select
from sqlalchemy.orm import Session, joinedload

from app.core.clock import utcnow
from app.core.security import hash_token, new_token
from app.models import LoginSession, User
from app.settings import get_settings


def cookie_name(kind: str) -> str:
    """``__Host-`` where the public address is https: no other path, host or plain connection can set it."""
    return f"__Host-kto_{kind}" if get_settings().secure_cookies else f"kto_{kind}"


def session_cookie(request: Request) -> str | None:
    return request.cookies.get(cookie_name("session"))


def set_cookie(response: Response, kind: str, value: str, max_age: int | None) -> None:
    response.set_cookie(
        cookie_name(kind),
        value,
        max_age=max_age,
        path="/",
        httponly=True,
        samesite="lax",
        secure=get_settings().secure_cookies,
    )


_LOGIN = (
    select(LoginSession)
    .options(joinedload(LoginSession.user))
    .where(LoginSession.token_hash == bindparam("hash"), LoginSession.expires_at > bindparam("now"))
)


def find_login(db: Session, token: str | None) -> LoginSession | None:
    if not token:
        return None
    now = utcnow()
    login = db.scalar(_LOGIN, {"hash": hash_token(token), "now": now})
    if login is None or not login.user.is_active:
        return None
    if (now - login.last_seen_at).total_seconds() > 300:
        login.last_seen_at = now
    return login


def open_login(db: Session, user: User) -> str:
    """Returns the token for the cookie."""
    token = new_token()
    now = utcnow()
    db.execute(delete(LoginSession).where(LoginSession.user_id == user.id, LoginSession.expires_at <= now))
    db.add(
        LoginSession(
            token_hash=hash_token(token),
            user_id=user.id,
            expires_at=now + timedelta(hours=get_settings().session_hours),
            last_seen_at=now,
        )
    )
    db.flush()
    return token


def close_login(db: Session, token: str | None) -> None:
    if token:
        db.execute(delete(LoginSession).where(LoginSession.token_hash == hash_token(token)))


def close_all_logins(db: Session, user: User) -> None:
    db.execute(delete(LoginSession).where(LoginSession.user_id == user.id))
