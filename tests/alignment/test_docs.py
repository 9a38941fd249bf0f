"""What is written about the trainer holds: every setting is documented, and the example runs."""

from __future__ import annotations

import re
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import worker.alignment
from tests.alignment import tiny
from worker.alignment.config import AlignmentConfig, TrainSpec
from worker.alignment.events import METRIC_KEYS, RunFinished

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "kto.md").read_text(encoding="utf-8")


def names(cls: Any, prefix: str = "") -> list[str]:
    hints = get_type_hints(cls)
    found: list[str] = []
    for each in fields(cls):
        inner = hints[each.name]
        found += names(inner, f"{prefix}{each.name}.") if is_dataclass(inner) else [prefix + each.name]
    return found


def test_every_setting_metric_and_reason_is_documented() -> None:
    settings = DOCS.split("## Settings")[1]
    assert [name for name in names(AlignmentConfig) if f"`{name}`" not in settings] == []
    assert [each.name for each in fields(TrainSpec) if f"`{each.name}`" not in DOCS] == []
    assert [key for key in METRIC_KEYS if f"`{key}`" not in DOCS.split("## Metrics")[1]] == []
    reasons = get_type_hints(RunFinished)["reason"].__args__
    assert [reason for reason in reasons if reason and f"`{reason}`" not in DOCS] == []


def test_no_setting_is_documented_that_is_none() -> None:
    rows = [line.split("|")[1] for line in DOCS.split("## Settings")[1].splitlines() if line.startswith("| `")]
    told = [name for cell in rows for name in cell.replace("`", "").replace(" ", "").split(",")]
    assert sorted(told) == sorted(names(AlignmentConfig))


def test_every_trap_has_a_test() -> None:
    told = DOCS.split("## What the tests guard against")[1].split("## Settings")[0]
    numbers = [int(number) for number in re.findall(r"(?:^|\. )(\d+)\. ", told, flags=re.MULTILINE)]
    assert numbers == list(range(1, 19))
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [number for number in numbers if f"def test_trap_{number:02d}_" not in tests] == []


def test_the_example_of_the_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.save_model(tmp_path / "base")
    tiny.save_snapshot(tmp_path / "snapshot", dev=2)
    monkeypatch.chdir(tmp_path)
    text = worker.alignment.__doc__
    assert text is not None
    code = textwrap.dedent("\n".join(line for line in text.splitlines() if line.startswith("    ")))
    assert len(code.splitlines()) <= 11
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["finished"].status == "succeeded"
    events = tiny.events(tmp_path / "attempt-1")
    assert [event["step"] for event in events if event["kind"] == "checkpoint_saved"] == [2]
