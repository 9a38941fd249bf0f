"""Suites' checks against released verdicts: rows for bench.evaluation.

The verdicts of IFEval on 541 answers of GPT-4o (2024-08-06), per instruction, strict and loose. “Failing found”: of the
instructions the release says were not followed, the share that we say so too.

Where we differ, the release is at fault: its letter counter replaces # by a letter drawn at random, and its language detector
takes two English texts in capitals for another language.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import CannotRunError, Row, row

ANSWERS = "gpt-4o-2024-08-06"
AGREEMENT, FAILING_FOUND = 0.99, 0.95


@dataclass(frozen=True, slots=True)
class Verdict:
    instruction: str
    kwargs: dict[str, Any]
    text: str
    released: bool
    ours: bool


def data_folder() -> Path:
    return Path(os.environ.get("KTO_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data") / "ifeval"


def verdicts(mode: str, folder: Path | None = None) -> Iterator[Verdict]:
    """Every instruction of every answer; ``mode`` is strict or loose."""
    from worker.alignment.evaluation.suites.ifeval import follows
    from worker.alignment.evaluation.suites.instructions import known_id

    folder = folder or data_folder()
    if not folder.is_dir():
        raise CannotRunError(f"{folder} is missing; set KTO_SHARED_DATA to the folder that holds ifeval.")
    prompts = {item["prompt"]: item for item in _lines(folder / "en_input_data.jsonl")}
    for answer in _lines(folder / f"{ANSWERS}_{mode}.jsonl"):
        asked = prompts[answer["prompt"]]["kwargs"]
        for given, kwargs, released in zip(
            answer["instruction_id_list"], asked, answer["follow_instruction_list"], strict=True
        ):
            identity = known_id(given)
            if identity is None:
                raise CannotRunError(f"unknown instruction {given}")
            ours = follows(identity, answer["response"], kwargs, loose=mode == "loose")
            yield Verdict(identity, kwargs, answer["response"], released, ours)


def rows(quick: bool) -> list[Row]:
    """Both modes take seconds: ``quick`` measures the same."""
    del quick
    found: list[Row] = []
    for mode in ("strict", "loose"):
        read = list(verdicts(mode))
        failing = [verdict for verdict in read if not verdict.released]
        found.append(_share(f"IFEval verdicts agree, {mode}", [v.ours == v.released for v in read], AGREEMENT))
        found.append(_share(f"IFEval failing found, {mode}", [not v.ours for v in failing], FAILING_FOUND))
    return found


def _share(name: str, values: Sequence[bool], at_least: float) -> Row:
    return row(name, "share", [float(v) for v in values], value=sum(values) / len(values), at_least=at_least)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
