from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.core.db import new_session
from app.core.redis import get_redis
from app.settings import Settings, get_settings
from tests.conftest import ROOT
from tests.factory import Factory
from tests.runs.conftest import Bench, make_bench

Start = Callable[[list[str]], "subprocess.Popen[bytes]"]


def fake(mode: str = "ok", seconds: float = 0.0) -> list[str]:
    """The command of the fake trainer."""
    return [sys.executable, "-m", "tests.worker.fake_trainer", mode, str(seconds)]


def trainers(folder: Path) -> list[int]:
    """Processes whose command line names a spec below the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and "spec.json" in line:
            found.append(int(entry.name))
    return found


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
        monkeypatch.setattr(settings, "trainer_command", fake(mode, seconds))

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


@pytest.fixture
def start(live: Bench, tmp_path: Path) -> Iterator[Start]:
    """``start(command)`` starts a worker process for runs whose trainer is ``command``; empty: the real one."""
    started: list[subprocess.Popen[bytes]] = []

    def act(command: list[str]) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "KTO_DATA_DIR": str(tmp_path),
            "KTO_LEASE_SECONDS": "2",
            "KTO_STOP_GRACE_SECONDS": "5",
            "KTO_TRAINER_COMMAND": json.dumps(command),
        }
        argv = [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "-Q", "train", "-P", "threads"]
        argv += ["-c", "1", "-n", f"train{len(started)}@test", "--without-gossip", "--without-mingle"]
        with (tmp_path / "worker.log").open("ab") as log:
            process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=log)
        started.append(process)
        return process

    yield act
    for process in started:
        process.kill()
        process.wait()
