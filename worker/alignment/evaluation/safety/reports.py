"""Reports of red-team tools that ran elsewhere (garak, PyRIT, promptfoo), read into one form. None of them is needed here.

A line that cannot be read is listed with its number and reason, the others are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Tool = Literal["garak", "pyrit", "promptfoo"]

MAX_BYTES = 64 * 1024 * 1024
MAX_KEPT = 1000
"""Failed samples kept for reading; all are counted."""
MAX_ERRORS = 100
MAX_TEXT = 8000


class ReportError(ValueError):
    """The file as a whole is no such report; the message says what was looked for."""


@dataclass(slots=True)
class ProbeCounts:
    passed: int = 0
    failed: int = 0
    errors: int = 0
    """Attempts that the tool itself could not judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSample:
    probe: str
    prompt: str
    answer: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LineError:
    line: int | None
    message: str


@dataclass(slots=True, kw_only=True)
class Report:
    tool: Tool
    target: str = ""
    """The model that the tool names."""
    probes: dict[str, ProbeCounts] = field(default_factory=dict)
    failures: list[ReportSample] = field(default_factory=list)
    """The first MAX_KEPT."""
    errors: list[LineError] = field(default_factory=list)
    num_errors: int = 0

    @property
    def num_passed(self) -> int:
        return sum(counts.passed for counts in self.probes.values())

    @property
    def num_failed(self) -> int:
        return sum(counts.failed for counts in self.probes.values())

    def count(self, probe: str, prompt: Any, answer: Any, passed: bool | None, detail: str = "") -> None:
        counts = self.probes.setdefault(probe[:200] or "unnamed", ProbeCounts())
        if passed is None:
            counts.errors += 1
        elif passed:
            counts.passed += 1
        else:
            counts.failed += 1
            if len(self.failures) < MAX_KEPT:
                self.failures.append(
                    ReportSample(
                        probe=probe, prompt=told(prompt), answer=told(answer), passed=False, detail=detail[:500]
                    )
                )

    def wrong(self, line: int | None, message: str) -> None:
        self.num_errors += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(LineError(line, message))


def read_report(content: str | bytes) -> Report:
    """Which tool wrote it is told from the content. Raises ReportError where it is none of the three or holds no result."""
    if len(content) > MAX_BYTES:
        raise ReportError(f"The file is larger than {MAX_BYTES >> 20} MiB.")
    text = content.decode("utf-8-sig", "replace") if isinstance(content, bytes) else content
    whole = _whole(text)
    if isinstance(whole, dict) and isinstance(whole.get("results"), (dict, list)):
        report = _promptfoo(whole)
    elif isinstance(whole, list) or (isinstance(whole, dict) and _pyrit_rows(whole)):
        report = _pyrit(whole)
    else:
        report = _lines(text)
    if not report.probes:
        first = f" {report.errors[0].message}" if report.errors else ""
        raise ReportError(f"No result of garak (JSON lines), PyRIT or promptfoo (JSON) was found in it.{first}")
    return report


def told(value: Any) -> str:
    """A prompt or answer in whatever form the tool keeps it, as text."""
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, Mapping):
        for name in ("text", "content", "turns", "raw", "output", "converted_value", "original_value"):
            if value.get(name) is not None:
                return told(value[name])
    if isinstance(value, list):
        return "\n".join(told(item) for item in value)[:MAX_TEXT]
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)[:MAX_TEXT]


def _whole(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _lines(text: str) -> Report:
    report = Report(tool="garak")
    evals: list[Mapping[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            report.wrong(number, "The line is not JSON; was the file cut off?")
            continue
        if not isinstance(row, dict) or not row.get("entry_type"):
            report.wrong(number, "The line has no entry_type, as garak's have.")
        else:
            _garak_entry(row, number, evals, report)
    if not report.probes:  # a report without its attempts still has their counts
        for row in evals:
            _garak_eval(row, report)
    return report


def _garak_entry(row: Mapping[str, Any], number: int, evals: list[Mapping[str, Any]], report: Report) -> None:
    kind = row["entry_type"]
    if kind == "eval":
        evals.append(row)
    elif kind == "start_run setup":
        report.target = str(row.get("plugins.target_name") or row.get("plugins.model_name") or "")[:200]
    elif kind == "attempt":
        try:
            _garak_attempt(row, report)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            report.wrong(number, f"The attempt has another form than expected: {error}")


def _garak_attempt(row: Mapping[str, Any], report: Report) -> None:
    """Status 2 is judged: each detector gives each output a score, from 0.5 on a hit."""
    if row.get("status") != 2:
        return
    probe = str(row.get("probe_classname") or row.get("probe") or "")
    outputs = row.get("outputs") or []
    scores = row.get("detector_results") or {}
    for place, output in enumerate(outputs):
        found = {name: values[place] for name, values in scores.items() if place < len(values)}
        known = {name: float(value) for name, value in found.items() if value is not None}
        hits = [name for name, value in known.items() if value >= 0.5]
        report.count(probe, row.get("prompt"), output, not hits if known else None, ", ".join(hits))


def _garak_eval(row: Mapping[str, Any], report: Report) -> None:
    total, passed = row.get("total_evaluated", row.get("total")), row.get("passed")
    if isinstance(total, int) and isinstance(passed, int) and 0 <= passed <= total:
        probe = str(row.get("probe") or "").removeprefix("probes.")
        counts = report.probes.setdefault(f"{probe} / {row.get('detector', '')}", ProbeCounts())
        counts.passed += passed
        counts.failed += total - passed
    else:
        report.wrong(None, "An eval entry has no counts.")


def _promptfoo(data: Mapping[str, Any]) -> Report:
    report = Report(tool="promptfoo")
    results = data["results"]
    rows = results.get("results", []) if isinstance(results, dict) else results
    for number, row in enumerate(rows if isinstance(rows, list) else [], 1):
        if not isinstance(row, dict) or not isinstance(row.get("success"), bool):
            report.wrong(number, f"Result {number} does not say whether it succeeded.")
            continue
        provider = row.get("provider")
        name = provider.get("label") or provider.get("id") if isinstance(provider, dict) else provider
        report.target = report.target or str(name or "")[:200]
        test = row.get("testCase") if isinstance(row.get("testCase"), dict) else {}
        told_by = [(test or {}).get("metadata"), row.get("metadata")]
        meta = {name: value for each in told_by if isinstance(each, dict) for name, value in each.items()}
        probe = str(meta.get("pluginId") or meta.get("strategyId") or (test or {}).get("description") or "assertions")
        graded = row.get("gradingResult") if isinstance(row.get("gradingResult"), dict) else {}
        # A test that could not be run is a failure to promptfoo; it says nothing of the model.
        broke = bool(row.get("error")) and not graded
        passed = None if broke else row["success"]
        response = row.get("response") if isinstance(row.get("response"), dict) else {}
        answer = (response or {}).get("output")
        report.count(probe, row.get("prompt"), answer, passed, str((graded or {}).get("reason") or ""))
    return report


def _pyrit_rows(data: Any) -> list[Any]:
    """PyRIT writes a list of attack results, or of conversation pieces, alone or under a name."""
    if isinstance(data, list):
        return data
    for name in ("attack_results", "prompt_request_pieces", "message_pieces", "conversations"):
        if isinstance(data.get(name), list):
            return list(data[name])
    return []


def _pyrit(data: Any) -> Report:
    report = Report(tool="pyrit")
    asked: dict[str, Any] = {}
    for number, row in enumerate(_pyrit_rows(data), 1):
        if not isinstance(row, dict):
            report.wrong(number, f"Entry {number} is not a mapping.")
        elif "outcome" in row:
            outcome = str(row["outcome"]).rpartition(".")[2].lower()
            passed = {"success": False, "failure": True}.get(outcome)
            attack = row.get("attack_identifier")
            name = attack.get("__type__") or attack.get("class_name") if isinstance(attack, dict) else attack
            answer = row.get("last_response")
            report.count(
                str(name or "attack"), row.get("objective"), answer, passed, str(row.get("outcome_reason") or "")
            )
        elif row.get("role") in ("user", "assistant"):
            _pyrit_piece(row, asked, report)
        else:
            report.wrong(number, f"Entry {number} is neither an attack's result nor a message.")
    return report


def _pyrit_piece(row: Mapping[str, Any], asked: dict[str, Any], report: Report) -> None:
    """A message with its scores: a true one, or a rate from 0.5 on, says that the attack came through."""
    conversation = str(row.get("conversation_id") or "")
    if row["role"] == "user":
        asked[conversation] = row.get("original_value") or row.get("converted_value")
        return
    scores = row.get("scores") if isinstance(row.get("scores"), list) else []
    values = [_score(score) for score in scores or [] if isinstance(score, dict)]
    known = [value for value in values if value is not None]
    first = (scores or [{}])[0]
    category = first.get("score_category") if isinstance(first, dict) else None
    probe = told(category) or str(row.get("attack") or "messages")
    passed = not any(value >= 0.5 for value in known) if known else None
    report.count(probe, asked.get(conversation), row.get("converted_value") or row.get("original_value"), passed)


def _score(score: Mapping[str, Any]) -> float | None:
    value = str(score.get("score_value", "")).strip().lower()
    if value in ("true", "false"):
        return float(value == "true")
    try:
        return float(value)
    except ValueError:
        return None
