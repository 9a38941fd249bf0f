"""Suites from the files of Inspect, OpenAI evals, promptfoo, IFEval, MT-Bench, lm-evaluation-harness and plain questions.

The format is told from the content. What cannot be taken over is listed with its reason, never dropped in silence, and no code
in a file is run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from worker.alignment.evaluation.suites.format import Suite, SuiteKind, parse_suite
from worker.alignment.evaluation.suites.import_promptfoo import promptfoo
from worker.alignment.evaluation.suites.import_rows import ROWS, openai_row
from worker.alignment.evaluation.suites.imported import Draft, RowError, Skipped, refused
from worker.alignment.evaluation.suites.problems import Problem, SuiteError
from worker.alignment.evaluation.suites.reading import (
    MAX_HEADER_BYTES,
    MAX_SAMPLES_BYTES,
    decoded,
    read_array,
    read_lines,
    read_yaml,
)

FORMATS = {
    "inspect": "Inspect samples (JSON lines, JSON or CSV)",
    "openai": "OpenAI evals (samples, with or without their registry YAML)",
    "promptfoo": "promptfoo (YAML)",
    "ifeval": "IFEval (JSON lines)",
    "mt-bench": "MT-Bench questions (JSON lines)",
    "lm-eval": "lm-evaluation-harness sample log (JSON lines)",
    "questions": "questions and answers (JSON lines, JSON or CSV)",
    "categories": "prompts by category (JSON lines), for diversity",
}
_ROUNDS = 20
"""Each round leaves out up to 200 samples that cannot be read."""
_CLASSES: dict[str, dict[str, Any]] = {
    "match": {"type": "starts-with"},
    "includes": {"type": "contains-any"},
    "fuzzymatch": {"type": "icontains-any"},
    "modelbasedclassify": {"type": "judge", "rubric": "", "scale": [0, 1]},
}
Rows = Sequence[tuple[int | None, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    suite: Suite
    format: str
    """A key of FORMATS."""
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    """What holds for the whole file, in sentences."""


def import_suite(files: Mapping[str, str | bytes], *, name: str, kind: SuiteKind | None = None) -> Imported:
    """``files``: name -> content; two where a registry or header comes beside its samples.

    Raises SuiteError where the format is not known, nothing is left, or the header (its name) cannot be read.
    """
    draft = Draft(header={"name": name})
    found = ""
    rows: list[tuple[int | None, Any]] = []
    check: dict[str, Any] | None = None
    for content in files.values():
        data, line_of, lines = _read(content)
        if isinstance(data, dict) and ({"prompts", "tests", "scenarios"} & data.keys()):
            found = "promptfoo"
            promptfoo(data, draft, line_of)
        elif isinstance(data, dict) and (registered := _registered(data)):
            check = _of_registry(registered, draft)
        else:
            rows += lines
    if not found:
        found = _format_of(rows)
        row_of = partial(openai_row, check=check) if found == "openai" else ROWS[found]
        _take(rows, row_of, draft)
    draft.header["kind"] = kind or ("diversity" if found == "categories" else "eval")
    suite = _parsed(draft)
    return Imported(suite=suite, format=found, skipped=tuple(draft.skipped), notes=tuple(draft.notes))


def _read(content: str | bytes) -> tuple[Any, Callable[[str], int | None], Rows]:
    """(YAML data, its lines, []) of a YAML mapping, else (None, …, rows)."""
    text = decoded(content, "samples", MAX_SAMPLES_BYTES)
    start = text.lstrip()[:1]
    if not start:
        raise refused("The file is empty.")
    first = text.strip().split("\n", 1)[0].strip()
    if start == "[":
        return None, lambda _path: None, [(None, row) for row in read_array(text)]
    if start == "{" and first.endswith("}"):
        return None, lambda _path: None, list(read_lines(text))
    if start != "{" and "," in first and ":" not in first.partition(",")[0]:
        return None, lambda _path: None, _csv(text)
    if len(text) > MAX_HEADER_BYTES:
        raise refused(f"Neither JSON lines nor CSV, and as YAML larger than {MAX_HEADER_BYTES >> 20} MiB.")
    data, lines = read_yaml(text, "samples")
    if not isinstance(data, dict):
        raise refused("Neither JSON lines, CSV nor a YAML mapping.")
    return data, lines, []


def _csv(text: str) -> Rows:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        return [(reader.line_num, {key: cell for key, cell in row.items() if key and cell}) for row in reader]
    except csv.Error as error:
        raise refused(f"Not CSV: {error}.") from error


def _format_of(rows: Rows) -> str:
    first = next((row for _, row in rows if isinstance(row, dict)), None)
    if first is None:
        raise refused("There is not one row that can be read.")
    keys = first.keys()
    for name, wanted in (
        ("ifeval", {"prompt", "instruction_id_list"}),
        ("mt-bench", {"turns"}),
        ("lm-eval", {"doc", "arguments"}),
        ("openai", {"input", "ideal"}),
        ("inspect", {"input"}),
        ("categories", {"category", "prompts"}),
        ("questions", {"question"}),
        ("questions", {"prompt"}),
    ):
        if wanted <= keys:
            return name
    shown = ", ".join(list(map(str, keys))[:8])
    raise refused(f"Not a format that is read here: its rows have {shown[:200] or 'no fields'}.")


def _take(rows: Rows, row_of: Callable[[Mapping[str, Any], int | None, Draft], None], draft: Draft) -> None:
    for line, row in rows:
        if isinstance(row, Problem):
            draft.skip(line, None, row.message)
        elif not isinstance(row, dict):
            draft.skip(line, None, "Is not a mapping.")
        else:
            try:
                row_of(row, line, draft)
            except RowError as error:
                draft.skip(line, row.get("id"), str(error))


def _registered(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first entry of an OpenAI evals registry that names a class."""
    entries = [entry for entry in data.values() if isinstance(entry, dict) and isinstance(entry.get("class"), str)]
    if not entries:
        return None
    described = [entry["description"] for entry in data.values() if isinstance(entry, dict) and "description" in entry]
    return {**entries[0], "description": described[0] if described else ""}


def _of_registry(entry: Mapping[str, Any], draft: Draft) -> dict[str, Any] | None:
    if isinstance(entry["description"], str) and entry["description"]:
        draft.header["description"] = entry["description"][:5000]
    name = entry["class"].rpartition(":")[2]
    check = _CLASSES.get(name.lower())
    if check is None:
        draft.note(f"The class {name[:80]} is code and is not run: an answer passes when it starts with the ideal one.")
        return None
    arguments = entry.get("args") if isinstance(entry.get("args"), dict) else {}
    if check["type"] == "contains-any" and arguments and arguments.get("ignore_case"):
        return {"type": "icontains-any"}
    return check


def _parsed(draft: Draft) -> Suite:
    """Samples that cannot be read go to the skipped ones."""
    for _ in range(_ROUNDS):
        if not draft.samples:
            reasons = [f"{skipped}" for skipped in draft.skipped[:20]]
            raise SuiteError([Problem(None, "", text) for text in ("Nothing is left to import.", *reasons)])
        try:
            return parse_suite(draft.header, [sample for _, sample in draft.samples])
        except SuiteError as error:
            if any(problem.source == "header" for problem in error.problems):
                raise
            _leave_out(draft, error.problems)
    raise refused(f"Over {_ROUNDS * 200:,} samples cannot be read: {draft.skipped[-1]}.")


def _leave_out(draft: Draft, problems: Sequence[Problem]) -> None:
    bad: dict[int, Problem] = {}
    for problem in problems:
        if problem.line is not None and 0 < problem.line <= len(draft.samples):
            bad.setdefault(problem.line - 1, problem)
    if not bad:
        raise SuiteError(problems)
    for index, problem in bad.items():
        line, sample = draft.samples[index]
        told = f"{problem.field}: {problem.message}" if problem.field else problem.message
        draft.skip(line, sample.get("id"), told)
    draft.samples = [kept for index, kept in enumerate(draft.samples) if index not in bad]
