"""The demo's frame: where its data lies, how it fails, what it shows. The loop itself runs in the browser tests."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.embedded.paths import default_data_dir
from app.models import EvaluationSample
from tests.browser.conftest import clean_environment
from worker.demo.corpus import GRUMPY_CLOSINGS, HELPFUL_CLOSINGS, style_of
from worker.demo.loop import demo_data_dir
from worker.demo.story import changed_answer, interval

ROOT = Path(__file__).resolve().parents[2]
GOOD, BAD = f"A fact. {HELPFUL_CLOSINGS[0]}", f"A fact. {GRUMPY_CLOSINGS[0]}"


def run_demo(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "demo", *arguments],
        cwd=ROOT,
        env={**clean_environment(), **env},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_its_data_is_apart_from_the_product() -> None:
    assert demo_data_dir() != default_data_dir()
    assert demo_data_dir().parent == default_data_dir().parent


def test_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        finished = run_demo("--once", "--port", port, "--data", str(tmp_path / "data"))
    assert finished.returncode == 1
    assert f"Error: Port {port} on 127.0.0.1 is in use." in finished.stdout
    assert "Traceback" not in finished.stdout + finished.stderr


def test_setting_that_does_not_fit() -> None:
    finished = run_demo("--once", KTO_PORT="abc")
    assert finished.returncode == 1
    assert "KTO_PORT" in finished.stdout + finished.stderr
    assert "Traceback" not in finished.stdout + finished.stderr


def sample(arm: str, number: int, text: str) -> EvaluationSample:
    return EvaluationSample(arm=arm, prompt_number=number, text=text)


def test_changed_answer() -> None:
    assert (style_of(GOOD), style_of(BAD)) == (True, False)
    before, after = sample("reference", 2, BAD), sample("policy", 2, GOOD)
    others = [sample("reference", 1, GOOD), sample("policy", 1, GOOD), sample("reference", 3, BAD)]
    assert changed_answer([*others, before, sample("policy", 2, BAD), after]) == (before, after)
    assert changed_answer(others) is None


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ({"value": None, "low": None, "high": None}, "not enough evidence"),
        ({"value": 0.5, "low": None, "high": None}, "0.500"),
        ({"value": 0.5, "low": 0.4, "high": 0.6}, "0.500 (0.400 to 0.600)"),
    ],
)
def test_interval(figure: dict[str, float | None], words: str) -> None:
    assert interval(figure) == words
