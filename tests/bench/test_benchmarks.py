"""The benchmarks that stand alone: their names, and what they say where they cannot run."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess

import pytest

from bench.report import main
from tests.conftest import ROOT

NAMES = ("training", "training_gpu", "parity", "learning", "collection", "evaluation", "pages")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_module_that_tells_its_command(name: str) -> None:
    module = importlib.import_module(f"bench.{name}")
    commands = [line.strip().partition("  ")[0] for line in str(module.__doc__).splitlines()]
    assert f"make bench NAME={name}" in commands
    assert f"python -m bench.{name}" in commands
    assert callable(module.measure)


def test_without_a_gpu_training_gpu_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from bench.training_gpu import measure

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main("training_gpu", measure) == 2
    assert "it needs a CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["training", "parity"])
def test_without_trl_the_reason_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert main(name, importlib.import_module(f"bench.{name}").measure) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith(f"bench.{name} could not run: TRL is not installed; pip install --no-deps -r bench/")


def test_make_installs_trl_only_for_what_needs_it() -> None:
    def commands(name: str) -> str:
        return subprocess.run(
            ["make", "-n", "bench", f"NAME={name}"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    assert "bench/requirements.lock" not in commands("pages")
    make = (ROOT / "Makefile").read_text()
    assert "AGAINST_TRL := training parity" in make
    pins = (ROOT / "bench" / "requirements.lock").read_text().splitlines()
    assert all("==" in line for line in pins if not line.startswith("#"))
    assert any(line.startswith("trl==") for line in pins)
