"""Hashing of passwords, keys and tokens, and CSRF tokens."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.core.storage import data_dir
from app.settings import get_settings

_hasher = PasswordHasher()


def hash_password(password: str) -> str:
    """argon2id with the library's current parameters."""
    return _hasher.hash(password)


@lru_cache(maxsize=1)
def _dummy_hash() -> str:
    return _hasher.hash("an unknown account costs as much time as a wrong password")


def verify_password(password: str, hashed: str | None) -> bool:
    """Constant work whether or not the account exists."""
    try:
        return _hasher.verify(hashed or _dummy_hash(), password) and hashed is not None
    except (VerificationError, InvalidHashError):
        return False


def new_token(num_bytes: int = 32) -> str:
    return secrets.token_urlsafe(num_bytes)


def hash_token(token: str) -> str:
    """SHA-256 of a random token: 256 bits of entropy need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


@lru_cache(maxsize=1)
def secret_key() -> bytes:
    """KTO_SECRET_KEY, else a key made once in the data folder (mode 0600)."""
    configured = get_settings().secret_key
    if configured:
        return configured.encode()
    path = data_dir() / "secrets" / "secret_key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        fresh = path.with_name(f"secret_key.{secrets.token_hex(8)}")
        with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(secrets.token_hex(32).encode())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # the first process wins; nobody ever reads a half-written key
        fresh.unlink()
    return path.read_bytes()


def csrf_token(session_hash: str) -> str:
    """Bound to the server-side session, so that a token of one session never serves another."""
    return hmac.new(secret_key(), b"csrf:" + session_hash.encode(), hashlib.sha256).hexdigest()


def csrf_valid(session_hash: str, token: str) -> bool:
    return hmac.compare_digest(csrf_token(session_hash).encode(), token.encode())
