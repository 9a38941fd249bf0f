"""One-time and feedback links stay out of the logs: the address of such a page holds its token."""

from __future__ import annotations

import logging
import re

_TOKEN = re.compile(r"(/(?:start|rate)/)[^\s?#\"']+")
_LOGGERS = ("uvicorn.access", "app.web.errors")


class HideTokens(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = _hidden(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(_hidden(value) for value in record.args)
        return True


def _hidden(value: object) -> object:
    # The two searches are there for the thousands of lines a second that hold neither.
    if isinstance(value, str) and ("/start/" in value or "/rate/" in value):
        return _TOKEN.sub(r"\1(hidden)", value)
    return value


def install() -> None:
    """Once per process, after the server has set up its loggers."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, HideTokens) for known in logger.filters):
            logger.addFilter(HideTokens())
