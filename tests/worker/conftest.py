from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.core.db import new_session
from app.core.redis import get_redis
from app.settings import Settings, get_settings
from tests.factory import Factory
from tests.runs.conftest import Bench, make_bench

FAKE = [sys.executable, "-m", "tests.worker.fake_trainer"]


@pytest.fixture
def settings(configured: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Quick leases, and a data folder of the test's own, since run ids begin at 1 in every test."""
    found = get_settings()
    monkeypatch.setattr(found, "data_dir", tmp_path)
    monkeypatch.setattr(found, "lease_seconds", 5)
    monkeypatch.setattr(found, "stop_grace_seconds", 1)
    return found


@pytest.fixture
def trainer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``trainer("fail")`` makes every attempt run the fake in that mode."""

    def use(mode: str = "ok", seconds: float = 0.0) -> None:
        monkeypatch.setattr(settings, "trainer_command", [*FAKE, mode, str(seconds)])

    use()
    return use


@pytest.fixture
def live(committed_db: Engine, settings: Settings) -> Iterator[Bench]:
    """A bench whose rows are committed: the supervisor has sessions of its own."""
    get_redis().flushdb()
    session: Any = new_session()
    bench = make_bench(session, Factory(session))
    session.commit()
    yield bench
    session.close()
