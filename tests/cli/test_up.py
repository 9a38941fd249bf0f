"""``kto up`` as real processes: the first start, the owner's account over HTTP, kill -9 of the parent, and starting again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.embedded.leftovers import Leftovers
from tests.browser.conftest import clean_environment, free_port

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery"
TIMEOUT_SECONDS = 90


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", *arguments]


def wait_for(what: Callable[[], Any], process: subprocess.Popen[Any], output: Path) -> Any:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (found := what()):
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.1)
    return found


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def left_processes(data: Path) -> list[int]:
    root = data.resolve()
    leftovers = Leftovers(root / "postgres" / "data", root / "run" / "redis" / "redis.sock", root)
    return [process.pid for process in leftovers._find()]


class Up:
    """One ``kto up`` on a data folder."""

    def __init__(self, data: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.output = data.parent / "output.txt"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                command("up", "--port", str(port), "--data", str(data)),
                cwd=data.parent,  # anywhere
                env={**clean_environment(), "PYTHONPATH": str(ROOT)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> str:
        """Until it answers; what it has printed."""
        wait_for(lambda: is_healthy(self.url), self.process, self.output)
        return self.output.read_text()


@pytest.fixture
def start(data: Path) -> Iterator[Callable[[int], Up]]:
    started: list[Up] = []

    def run(port: int) -> Up:
        started.append(Up(data, port))
        return started[-1]

    yield run
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def make_owner(link: str) -> httpx.Response:
    with httpx.Client() as client:
        page = client.get(link)
        token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        assert token, page.text
        form = {"name": "Ada", "email": "ada@example.org", "password": PASSWORD, "confirm": PASSWORD}
        answer = client.post(link, data={**form, "csrf_token": token[1]})
        assert answer.status_code == 303, answer.text
        return client.get(link.partition("/start/")[0] + "/projects")


def test_first_start_kill_and_second_start(data: Path, start: Callable[[int], Up]) -> None:
    port = free_port()
    first = start(port)
    printed = first.wait()
    link = re.search(r"First start: make the owner's account at\s+(http\S+)", printed)
    assert link, printed
    assert link[1].startswith(first.url)
    signed_in = make_owner(link[1])
    assert signed_in.status_code == 200
    assert "Ada" in signed_in.text
    assert httpx.get(link[1]).status_code == 404, "the link serves once"
    assert len(left_processes(data)) > 5

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**clean_environment(), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command(*arguments, "--data", str(data)), env=env, check=False, capture_output=True, text=True
        )

    second = run("up", "--port", str(free_port()))
    assert second.returncode == 1
    assert f"KTO Studio already runs on {data.resolve()}" in second.stderr
    assert run("user", "link", "ada@example.org").stdout.startswith(f"{first.url}/start/"), "the address in use"

    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    deadline = time.monotonic() + 20
    while (left := left_processes(data)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []

    again = start(port)
    assert "First start" not in again.wait()
    again.process.send_signal(signal.SIGINT)
    assert again.process.wait(timeout=60) == 0
    assert again.output.read_text().rstrip().endswith("Stopped.")
    assert left_processes(data) == []
