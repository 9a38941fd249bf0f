from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import ValidationError

from app.core.logs import set_up_logs
from app.settings import Settings, get_settings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("secret_key", "short", "at least 32 characters"),
        ("artifacts_url", "s3://bucket/path", "name a folder"),
        ("log_level", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("lease_seconds", 0, "greater than or equal to 1"),
        ("session_hours", -1, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, value: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings(**{name: value})


def test_the_log_level_reaches_our_own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTO_LOG_LEVEL", "error")
    get_settings.cache_clear()
    before = logging.getLogger("app").level
    try:
        set_up_logs()
        assert logging.getLogger("worker.supervisor").getEffectiveLevel() == logging.ERROR
        assert logging.getLogger("app.core.queue").getEffectiveLevel() == logging.ERROR
    finally:
        for name in ("app", "worker"):
            logging.getLogger(name).setLevel(before)
        monkeypatch.undo()
        get_settings.cache_clear()
