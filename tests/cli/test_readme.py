"""The README's examples for apps, run as they stand against a real server: only its address and the key are put in."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from sqlalchemy import Engine, func, select

from app.accounts.keys import create_key
from app.accounts.service import create_project
from app.core.db import session_scope
from app.feedback.importers import import_file
from app.models import Project, Rating
from tests.browser.conftest import clean_environment, free_port

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
HOST = "https://studio.example.org"


def example(language: str, word: str) -> str:
    """The only code block of that language that holds the word."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    found = [block for block in blocks if word in block]
    assert len(found) == 1, f"{len(found)} blocks of {language} hold {word}"
    return str(found[0])


@pytest.fixture
def server(committed_db: Engine) -> Iterator[tuple[str, str]]:
    """Address and key of a running web server with one project."""
    from app.main import create_app

    with session_scope() as db:
        project = create_project(db, name="Assistant", slug="my-assistant")
        _, key = create_key(db, project, "app", ["feedback:write"])
    port = free_port()
    running = uvicorn.Server(uvicorn.Config(create_app(), port=port, log_level="warning", ws="none", lifespan="off"))
    thread = threading.Thread(target=running.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not running.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}", key
    running.should_exit = True
    thread.join()


def num_ratings() -> int:
    with session_scope() as db:
        return db.scalars(select(func.count()).select_from(Rating)).one()


def run(argv: list[str], key: str) -> str:
    env = {**clean_environment(), "KTO_KEY": key}
    finished = subprocess.run(argv, env=env, check=False, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server: tuple[str, str]) -> None:
    url, key = server
    script = example("sh", "curl").replace(HOST, url)
    for status in ("created", "unchanged"):
        assert json.loads(run(["bash", "-c", script], key))["status"] == status
    assert num_ratings() == 1


def test_python(server: tuple[str, str]) -> None:
    url, key = server
    script = example("python", "httpx").replace(HOST, url)
    answer = ast.literal_eval(run([sys.executable, "-c", script], key))
    assert [item["status"] for item in answer["items"]] == ["created"], answer
    assert num_ratings() == 1


def test_line_of_an_import_file(server: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "thumbs.jsonl"
    file.write_text(example("json", "prompt"), encoding="utf-8")
    with session_scope() as db:
        result = import_file(db, db.scalars(select(Project)).one(), file)
        assert (result.num_created, result.num_rejected) == (1, 0)


def test_commands_exist() -> None:
    """Every `kto` and `make` command that the README shows."""
    from app.cli import cli

    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text()
    shown = re.findall(
        r"^(kto|make) (\S+)([^#\n]*)", "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)), re.MULTILINE
    )
    assert {("make", "demo"), ("make", "test"), ("kto", "up"), ("kto", "import")} <= {each[:2] for each in shown}
    for program, name, rest in shown:
        if program == "make":
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), name
            continue
        options = {option for parameter in cli.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, name
