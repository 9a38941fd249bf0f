"""docs/evaluation.md names every check, and its example is a suite."""

from __future__ import annotations

import re
from pathlib import Path

from worker.alignment.evaluation.suites.declared import CHECKS
from worker.alignment.evaluation.suites.format import parse_suite

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_every_check_is_named() -> None:
    missing = [name for name in CHECKS if not name.startswith(("not-", "icontains")) and f"`{name}`" not in TEXT]
    assert missing == []


def test_the_example_is_a_suite() -> None:
    header, sample = (re.search(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL) for kind in ("yaml", "json"))
    assert header is not None
    assert sample is not None
    suite = parse_suite(header[1], sample[1])
    assert suite.header.name == "returns-policy"
    assert suite.samples[0].checks[0].type == "word-count"
