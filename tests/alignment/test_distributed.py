"""Two processes give the single process's numbers, and a whole run over torchrun is a run like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.alignment import tiny
from tests.alignment.distributed_child import CASES

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def records() -> list[dict[str, Any]]:
    """40 rows: both classes in turn; from 20 on long prompts with short answers, then a shared beginning, then oddities."""
    plain = [tiny.record(number, label=number % 2 == 0) for number in range(20)]
    for number in range(16):  # two completions of each of eight prompts: what dpo is made of
        plain[number]["prompt"] = plain[number // 2 * 2]["prompt"]
        plain[number]["root"] = f"root-{number // 2}"
    wordy = [tiny.record(20 + number, words=20) for number in range(6)]
    shared = [tiny.record(26 + number) for number in range(10)]
    for each in shared:
        each["prompt"][0]["content"] = "Answer in one short line and never speak of anything that was not asked for."
    short = [tiny.record(36 + number, words=1, finish_reason="length") for number in range(3)]  # one token each
    return [*plain, *wordy, *shared, *short, tiny.record(39, words=100)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    folder = tmp_path_factory.mktemp("distributed")
    for architecture in {case.architecture for case in CASES.values()}:
        tiny.save_model(folder / architecture, architecture)
    tiny.save_snapshot(folder / "data", records=records())
    child = [*TORCHRUN, "-m", "tests.alignment.distributed_child", str(folder)]
    done = subprocess.run(
        child,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    loaded: dict[str, dict[str, float]] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradient_of_one(found: dict[str, dict[str, float]], kind: str, name: str) -> None:
    case = found[f"{kind}: {name}"]
    assert case["norm"] > 0
    assert case["between"] == 0
    assert case["numbers"] < 1e-6
    if not CASES[name].dropout:  # each process draws its own noise; the factors of the gradient are free of it
        assert case["gradient"] < 1e-6
