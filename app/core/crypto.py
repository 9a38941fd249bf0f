"""Secrets that must be read again: encrypted with a key derived from the installation's own."""

from __future__ import annotations

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.core.errors import UnavailableError
from app.core.security import secret_key


def _cipher(purpose: str) -> Fernet:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=f"kto-studio {purpose}".encode())
    return Fernet(base64.urlsafe_b64encode(derived.derive(secret_key())))


def encrypt(text: str, purpose: str) -> bytes:
    """Authenticated encryption (Fernet); what was written for one purpose cannot be read for another."""
    return _cipher(purpose).encrypt(text.encode())


def decrypt(token: bytes, purpose: str) -> str:
    """Raises UnavailableError where the installation's key has changed since."""
    try:
        return _cipher(purpose).decrypt(token).decode()
    except InvalidToken as error:
        raise UnavailableError(
            "A stored key cannot be read: the installation's secret key has changed since it was saved.",
            remedy="Type the key again.",
        ) from error
