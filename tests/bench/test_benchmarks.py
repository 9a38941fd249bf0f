"""The benchmarks themselves: their names, and the two KTO steps that must agree."""

from __future__ import annotations

import importlib

import pytest

from bench.report import main

NAMES = ("training", "training_gpu", "collection", "evaluation", "pages")


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


def test_both_trainers_make_the_same_steps() -> None:
    """Beside the speed: the plain step is an independent witness of ours, over several updates."""
    import torch

    from bench.kto_step import Size, compare

    size = Size(vocab=64, hidden=32, layers=2, heads=4, intermediate=48, rows_per_step=10, rounds=2)
    rows = {each.name: each for each in compare(size, torch.device("cpu"), loss_within=1e-5, step_at_least=None)}
    apart = rows["difference of loss, largest"]
    assert (apart.n, apart.holds) == (3, True)
    assert rows["our step"].n == rows["plain step"].n == 2
