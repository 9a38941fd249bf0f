"""Which language a text is in, by py3langid when it is installed."""

from __future__ import annotations


class NoDetectorError(Exception):
    """The detector is not installed: nothing can be said."""


def language_of(text: str) -> str:
    """The ISO 639-1 code of the likeliest language. Case is set aside. Raises NoDetectorError."""
    try:
        import py3langid
    except ImportError as error:
        raise NoDetectorError("Language checks need py3langid: install the extra “eval”.") from error
    code, _ = py3langid.classify(text.lower())
    return str(code)
