"""One-time links stay out of the logs: the address of such a page holds its token."""

from __future__ import annotations

import logging
import re

_TOKEN = re.compile(r"(/start/)[^\s?#\"']+")
_LOGGERS = ("uvicorn.access", "app.web.errors")


class HideTokens(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = _hidden(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(_hidden(value) for value in record.args)
        return True


def _hidden(value: object) -> object:
    return _TOKEN.sub(r"\1(hidden)", value) if isinstance(value, str) else value


def install() -> None:
    """Once per process, after the server has set up its loggers."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, HideTokens) for known in logger.filters):
            logger.addFilter(HideTokens())
