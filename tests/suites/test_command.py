"""``kto eval``: in a process of its own, on a tiny model and on a local endpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.alignment import tiny
from tests.safety_lib.endpoint import chat_reply, serving
from tests.suites import support
from tests.worker.test_evaluate_child import save_adapter

OK = "checks: [{type: word-count, min: 1}]\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "app.cli", "eval", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, timeout=240)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")


def write_suite(folder: Path, more: str = "") -> Path:
    (folder / "samples.jsonl").write_text(support.SAMPLES, encoding="utf-8")
    path = folder / "suite.yaml"
    path.write_text(f"{support.HEADER}{more}samples: samples.jsonl\n", encoding="utf-8")
    return path


def test_an_adapter_is_compared_with_its_base_and_a_gate_fails(tmp_path: Path, model: Path) -> None:
    suite = write_suite(tmp_path, "gates: {pass_rate: {min: 0.9, min_delta: -0.5}}\n")
    adapter = save_adapter(model, tmp_path / "adapter")
    done = run(str(suite), "--model", str(model), "--adapter", str(adapter), "--json")
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told["arms"]) == {"reference", "adapter"}
    assert told["arms"]["adapter"]["num_samples"] == 12
    assert told["arms"]["adapter"]["difference"]["n"] == 12
    assert [gate["state"] for gate in told["gates"]] == ["fail", "pass"]


def test_an_endpoint_is_asked_and_only_for_what_is_missing(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if number == 3:
            return 400, {}, b'{"error": {"message": "no room"}}'
        return chat_reply(*["a cat"] * body["n"])

    suite = write_suite(tmp_path)
    with serving(answer) as server:
        options = [str(suite), "--endpoint", server.url, "--name", "m", "--out", str(tmp_path / "out"), "--json"]
        told = [json.loads(run(*options).stdout.splitlines()[-1])["arms"]["endpoint"] for _ in range(2)]
    assert [(each["num_samples"], each["num_failed"]) for each in told] == [(12, 1), (12, 0)]
    assert told[1]["pass_rate"]["value"] == 1.0
    assert len(server.bodies) == 13
    assert {body["model"] for body in server.bodies} == {"m"}


@pytest.mark.parametrize(
    ("header", "options", "word"),
    [
        ('checks: [{type: regex, value: "("}]\n', [], "line 2: checks[0].value"),
        (OK, ["--adapter", "."], "--adapter needs --model"),
        (OK, ["--endpoint", "http://127.0.0.1:1/v1"], "--name"),
        (OK, [], "give --model"),
    ],
)
def test_wrong_input_exits_2_in_words(tmp_path: Path, header: str, options: list[str], word: str) -> None:
    suite = tmp_path / "suite.yaml"
    text = f"name: odd\n{header}samples:\n  - {{id: a, input: hello}}\n"
    suite.write_text(text, encoding="utf-8")
    done = run(str(suite), *options)
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr
