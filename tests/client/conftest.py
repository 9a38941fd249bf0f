"""A real server on a real port, with a door before it that can refuse calls or lose answers."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from sqlalchemy import Engine

from app.accounts.keys import create_key
from app.core.db import session_scope
from app.models import Project
from tests.conftest import ROOT

CLIENT = ROOT / "clients" / "python"
sys.path.insert(0, str(CLIENT))


@dataclass
class Door:
    """Before the application: what it does to the call of a number, from 0."""

    app: Any
    refuse: Callable[[int], tuple[int, dict[str, str]] | None] = lambda _number: None
    """An answer given in its stead, before it has seen the call."""
    loses: Callable[[int], bool] = lambda _number: False
    """Whether the application's answer is lost on the way back: it has stored what was sent."""
    paths: list[str] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        number = len(self.paths)
        self.paths.append(scope["path"])
        instead = self.refuse(number)
        if instead is None and self.loses(number):
            await self.app(scope, receive, _nothing)
            instead = (502, {})
        if instead is None:
            await self.app(scope, receive, send)
            return
        headers = [(name.encode(), value.encode()) for name, value in instead[1].items()]
        await send({"type": "http.response.start", "status": instead[0], "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


async def _nothing(_message: Any) -> None:
    await asyncio.sleep(0)


@dataclass
class Studio:
    """Where the server listens once it is started."""

    port: int
    key: str
    project_id: int
    door: Door
    server: uvicorn.Server
    thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Studio:
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        end = time.monotonic() + 30
        while not self.server.started and time.monotonic() < end:
            time.sleep(0.02)
        assert self.server.started
        return self

    def stop(self) -> None:
        self.server.should_exit = True
        if self.thread is not None:
            self.thread.join(timeout=20)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def away(committed_db: Engine) -> Iterator[Studio]:
    """Not started yet."""
    from app.main import create_app

    with session_scope() as db:
        project = Project(slug="shop", name="Shop", split_salt="salt")
        db.add(project)
        db.flush()
        _, token = create_key(db, project, "shop")
        project_id = project.id
    door, port = Door(create_app()), free_port()
    config = uvicorn.Config(door, host="127.0.0.1", port=port, log_level="error", lifespan="off")
    studio = Studio(port, token, project_id, door, uvicorn.Server(config))
    yield studio
    studio.stop()


@pytest.fixture
def studio(away: Studio) -> Studio:
    return away.start()
