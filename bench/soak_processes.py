"""The product's own processes for a soak: two web servers and the task worker, killed at random and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx

from app.accounts.keys import create_key
from app.accounts.sessions import open_login
from app.core.db import session_scope
from app.core.security import csrf_token, hash_token
from app.feedback.queue_fill import default_queue
from app.models import Membership, Role, User
from app.serve import task_worker_argv, web_argv
from app.settings import get_settings
from bench.report import CannotRunError
from bench.studio import make_project

START_SECONDS = 60.0


@dataclass(frozen=True)
class Person:
    cookie: str
    csrf: str


@dataclass(frozen=True)
class Ready:
    """A project with a key and signed-in annotators."""

    project_id: int
    slug: str
    queue: str
    key: str
    people: list[Person] = field(default_factory=list)


def ready_project(annotators: int, overlap: int) -> Ready:
    project, _ = make_project()
    with session_scope() as db:
        project = db.merge(project)
        _, token = create_key(db, project, "soak", ["feedback:write"], rate_per_minute=1_000_000)
        queue = default_queue(db, project)
        queue.overlap = overlap
        people = []
        for number in range(annotators):
            user = User(email=f"a{number}@example.org", name=f"Annotator {number}")
            db.add(user)
            db.flush()
            db.add(Membership(project_id=project.id, user_id=user.id, role=Role.ANNOTATOR.value))
            cookie = open_login(db, user)
            people.append(Person(cookie, csrf_token(hash_token(cookie))))
        return Ready(project.id, project.slug, queue.slug, token, people)


class _Process:
    def __init__(self, name: str, argv: list[str], log: IO[bytes]) -> None:
        self.name, self._argv, self._log = name, argv, log
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.child = subprocess.Popen(
            self._argv, stdout=self._log, stderr=self._log, env=dict(os.environ), start_new_session=True
        )

    @property
    def has_ended(self) -> bool:
        return self.child is not None and self.child.poll() is not None

    def kill(self) -> None:
        if self.child is not None and self.child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()


class Fleet:
    """Context manager. ``addresses``: of the two web servers."""

    def __init__(self) -> None:
        self._log = (Path(str(get_settings().data_dir)) / "soak.log").open("wb")
        self.addresses = [f"http://127.0.0.1:{_free_port()}" for _ in range(2)]
        webs = [_Process(f"web {url}", _on_port(url), self._log) for url in self.addresses]
        self._all = [*webs, _Process("tasks", task_worker_argv(), self._log)]

    @property
    def names(self) -> list[str]:
        return [process.name for process in self._all]

    def __enter__(self) -> Self:
        for process in self._all:
            process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._all:
            process.kill()
        self._log.close()

    def kill(self, name: str) -> None:
        next(process for process in self._all if process.name == name).kill()

    def restart_ended(self) -> None:
        for process in self._all:
            if process.has_ended:
                process.start()

    def wait_until_up(self) -> None:
        """Raises CannotRunError where a web server does not answer in time."""
        until = time.monotonic() + START_SECONDS
        for url in self.addresses:
            while not _answers(url):
                self.restart_ended()
                if time.monotonic() > until:
                    raise CannotRunError(f"the web server did not start: {self._tail()}")
                time.sleep(0.2)

    def _tail(self) -> str:
        return Path(self._log.name).read_text(errors="replace")[-2000:]


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5).status_code < 500
    except httpx.HTTPError:
        return False


def _on_port(url: str) -> list[str]:
    argv = web_argv()
    argv[argv.index("--port") + 1] = url.rpartition(":")[2]
    return argv


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
