"""What all benchmarks print and end with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

import pytest

from bench.report import CannotRunError, Row, interleave, main, percentile, ratios, row
from tests.conftest import ROOT

FAKE = """
import sys
from bench.report import interleave, main, ratios, row

def measure(quick):
    spent = interleave({"ours": lambda n: None, "plain": lambda n: sum(range(200_000))}, 3 if quick else 6)
    return [row("plain / ours", "x", ratios(spent["plain"], spent["ours"]), at_least=BOUND)]

sys.exit(main("fake", measure, packages=("pytest",)))
"""
ROW_KEYS = ["name", "value", "unit", "must", "holds", "median", "min", "max", "n"]


@pytest.mark.parametrize(("bound", "code"), [("1.0", 0), ("1e12", 1)])
def test_a_benchmark_ends_with_one_json_line_and_tells_by_its_exit_code(bound: str, code: int) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", FAKE.replace("BOUND", bound)],
        cwd=ROOT,
        env={"QUICK": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == code, shown.stderr
    *table, last = shown.stdout.splitlines()
    told = json.loads(last)
    assert list(told) == ["bench", "command", "commit", "cores", "versions", "rows"]
    assert told["bench"] == "fake"
    assert told["cores"] >= 1
    assert told["versions"] == {"python": sys.version.split()[0], "pytest": pytest.__version__}
    (measured,) = told["rows"]
    assert list(measured) == ROW_KEYS
    assert (measured["must"], measured["holds"], measured["n"]) == (f">= {float(bound):g}", code == 0, 3)
    assert measured["min"] <= measured["median"] == measured["value"] <= measured["max"]
    assert table[0].split() == ROW_KEYS
    assert table[1].startswith("plain / ours")
    assert ("NO" in table[1].split()) is (code == 1)


@pytest.mark.parametrize("error", [CannotRunError("it needs a CUDA device"), ImportError("No module named 'torch'")])
def test_what_cannot_run_says_why(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def measure(_quick: bool) -> Sequence[Row]:
        raise error

    assert main("fake", measure) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[-1] == f"bench.fake could not run: {error}"


@pytest.mark.parametrize(("value", "quick"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_quick(value: str | None, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUICK", raising=False)
    if value is not None:
        monkeypatch.setenv("QUICK", value)
    seen: list[bool] = []

    def measure(given: bool) -> Sequence[Row]:
        seen.append(given)
        return [row("a", "s", [1.0])]

    assert main("fake", measure) == 0
    assert seen == [quick]


def test_sides_take_turns_and_warm_up_first() -> None:
    calls: list[tuple[str, int]] = []
    clock = iter(range(100))
    sides = {name: partial(lambda name, number: calls.append((name, number)), name) for name in "ab"}
    spent = interleave(sides, 2, clock=lambda: float(next(clock)))
    assert calls == [("b", -1), ("a", -1), ("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert spent == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_rows_summarise_their_samples() -> None:
    measured = row("p95", "ms", [3.0, 1.0, 10.0], value=10.0, at_most=9)
    assert (measured.value, measured.median, measured.min, measured.max, measured.n) == (10.0, 3.0, 1.0, 10.0, 3)
    assert (measured.must, measured.holds) == ("<= 9", False)
    assert not row("loss", "nats", [float("nan")], at_most=1).holds
    free = row("rate", "items/s", [2.0])
    assert (free.must, free.holds) == (None, True)
    assert ratios([6.0, 8.0], [2.0, 4.0]) == [3.0, 2.0]
    samples = [float(number) for number in range(100, 0, -1)]
    assert (percentile(samples, 0.95), percentile(samples, 0.5), percentile([7.0], 0.95)) == (95.0, 50.0, 7.0)
