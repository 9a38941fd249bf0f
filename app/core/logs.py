"""What our own modules say, at the level of the settings; other libraries speak from WARNING on."""

from __future__ import annotations

import logging

from app.settings import get_settings

_OURS = ("app", "worker")


def set_up_logs() -> None:
    """Once per process. Keeps the handlers that the process has; without any, lines go to standard error."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in _OURS:
        logging.getLogger(name).setLevel(get_settings().log_level)
