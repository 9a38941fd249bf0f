"""Origins of web pages, as browsers send them: scheme, host and, where it is not the usual one, port."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from app.core.errors import InvalidError

MAX_ORIGINS = 20
_USUAL = {"https": 443, "http": 80}
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\]")


def parse_origin(typed: str) -> str:
    """``https://Shop.example:443`` -> ``https://shop.example``. Raises ValueError that says what does not fit."""
    text = typed.strip()
    if "*" in text:
        raise ValueError(f"{text} has a wildcard; name each origin by itself")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode()
    except (ValueError, UnicodeError):
        raise ValueError(f"{text} is no origin; write it as https://shop.example.org") from None
    host = f"[{host}]" if ":" in host else host
    if parts.scheme not in _USUAL or not _HOST.fullmatch(host) or len(text) > 300:
        raise ValueError(f"{text or 'nothing'} is no origin; write it as https://shop.example.org")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{text} has more than scheme, host and port; write {parts.scheme}://{host}")
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None and port != _USUAL[parts.scheme] else "")


def parse_origins(typed: Sequence[str]) -> list[str]:
    """Raises InvalidError with the field ``origins``."""
    try:
        found = list(dict.fromkeys(parse_origin(text) for text in typed if text.strip()))
    except ValueError as error:
        raise InvalidError("An origin does not fit.", fields={"origins": str(error)}) from None
    if not 1 <= len(found) <= MAX_ORIGINS:
        words = f"1 to {MAX_ORIGINS} origins, such as https://shop.example.org, one a line"
        raise InvalidError("An origin does not fit.", fields={"origins": words})
    return found
