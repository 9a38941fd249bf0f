"""What our own modules say, at the level of the settings; other libraries speak from WARNING on."""

from __future__ import annotations

import logging
import time

from app.settings import get_settings

_OURS = ("app", "worker")


def set_up_logs() -> None:
    """Once per process. Keeps the handlers that the process has; without any, lines go to standard error."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in _OURS:
        logging.getLogger(name).setLevel(get_settings().log_level)
    for handler in logging.getLogger("uvicorn.access").handlers:
        if isinstance(handler, logging.StreamHandler) and not handler.stream.isatty():
            handler.setFormatter(AccessLine())


class AccessLine(logging.Formatter):
    """A request in one line, with its time: what the server writes to a terminal in colours, at a fifth of the cost."""

    _second, _said = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._said = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._said} {record.levelname} {record.getMessage()}"
