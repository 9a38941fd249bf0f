"""Signing in with a password: the same work and the same words for every failure, and a limit on guesses."""

from __future__ import annotations

import hashlib
import logging
from urllib.parse import urlsplit

import redis
from fastapi import Request, Response
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.service import MAX_PASSWORD, find_user
from app.accounts.sessions import close_login, cookie_name, open_login, session_cookie, set_cookie
from app.core.errors import InvalidError, RateLimitedError
from app.core.redis import get_redis
from app.core.security import verify_password
from app.models import User
from app.settings import get_settings

log = logging.getLogger(__name__)

MAX_TRIES = 10
WINDOW_SECONDS = 15 * 60


def check_sign_in(db: Session, email: str, password: str, address: str) -> User:
    """``address``: the browser's. Raises InvalidError with the same words for each reason, RateLimitedError."""
    guess = _guess_key(email, address)
    _count_try(guess)
    user = find_user(db, email)
    fits = verify_password(password[: MAX_PASSWORD + 1], user.password_hash if user else None)
    if user is None or not fits or not user.is_active:
        log.info("A sign-in failed from %s", address)
        raise InvalidError("The address or the password is wrong.")
    _forget_tries(guess)
    return user


def _guess_key(email: str, address: str) -> str:
    return "signin:" + hashlib.sha256(f"{email.strip().lower()}\n{address}".encode()).hexdigest()


def _count_try(key: str) -> None:
    """Counted before the password is looked at, so that a burst of requests gets no extra tries."""
    try:
        pipeline = get_redis().pipeline()
        pipeline.set(key, 0, ex=WINDOW_SECONDS, nx=True)
        pipeline.incr(key)
        tries = int(pipeline.execute()[1])
    except redis.RedisError as error:
        log.warning("Redis does not answer, sign-ins are not limited for now: %s", error)
        return
    if tries > MAX_TRIES:
        raise RateLimitedError("Too many failed sign-ins.", remedy="Try again in 15 minutes.")


def _forget_tries(key: str) -> None:
    try:
        get_redis().delete(key)
    except redis.RedisError as error:
        log.warning("Redis does not answer, failed sign-ins stay counted: %s", error)


def start_session(db: Session, request: Request, response: Response, user: User) -> None:
    """A fresh session for this browser: the old cookies, and the CSRF tokens made for them, are worth nothing afterwards."""
    close_login(db, session_cookie(request))
    token = open_login(db, user)
    set_cookie(response, "session", token, max_age=get_settings().session_hours * 3600)
    drop_cookie(response, "visitor")
    audit.record(db, "user.signed_in", user_id=user.id, subject=user.email)


def end_session(db: Session, request: Request, response: Response) -> None:
    close_login(db, session_cookie(request))
    drop_cookie(response, "session")


def drop_cookie(response: Response, kind: str) -> None:
    response.delete_cookie(
        cookie_name(kind), path="/", secure=get_settings().secure_cookies, httponly=True, samesite="lax"
    )


def local_path(target: str) -> str:
    """``target`` where it is a path of this site, else the first page: no redirect leaves it."""
    parts = urlsplit(target)
    is_local = target.startswith("/") and not target.startswith("//") and not parts.scheme and not parts.netloc
    if not is_local or "\\" in target or any(ord(letter) < 32 for letter in target):
        return "/"
    return target if parts.path not in ("/login", "/logout") else "/"
