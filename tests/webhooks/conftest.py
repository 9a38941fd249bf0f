from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.settings import get_settings
from tests.webhooks.receiver import Receiver, receiving


@pytest.fixture
def private_allowed(configured: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KTO_ALLOW_PRIVATE_ENDPOINTS", '["127.0.0.1"]')
    get_settings.cache_clear()
    yield
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.fixture
def receiver(private_allowed: None) -> Iterator[Receiver]:
    with receiving() as server:
        yield server
