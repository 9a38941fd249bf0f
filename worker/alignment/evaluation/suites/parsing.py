"""Header and samples from plain data, with every problem noted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from worker.alignment.evaluation.suites.declared import Check, needs_target, read_checks
from worker.alignment.evaluation.suites.format import (
    GATED,
    KINDS,
    PRIMARIES,
    Gate,
    Messages,
    Sampling,
    SuiteHeader,
    SuiteSample,
)
from worker.alignment.evaluation.suites.options import integer, number, one_of, short
from worker.alignment.evaluation.suites.problems import MAX_PROBLEMS, Notes, Problem, Source, nearest

MAX_SAMPLES = 50_000
MAX_MESSAGES = 200
MAX_NAME = 100
_MAX_UNKNOWN = 20
_ROLES = ("system", "user", "assistant")
_HEADER_KEYS = ("name", "kind", "description", "primary", "sampling", "checks", "gates", "quality", "samples")
_SAMPLE_KEYS = ("id", "input", "target", "category", "metadata", "checks")
_SAMPLING = {
    "n": integer(1, 64),
    "temperature": number(0, 10),
    "top_p": number(1e-6, 1),
    "max_tokens": integer(1, 32_768),
    "seed": integer(0, 2**31 - 1),
}
_GATE = number(-1, 1)
# What a suite of this kind checks when it says nothing.
_IMPLIED = {"redteam": (Check("refusal"),), "benign": (Check("not-refusal"),)}


def read_header(data: Any, notes: Notes) -> SuiteHeader | None:
    """None where it cannot be read; why is noted."""
    if not isinstance(data, dict):
        notes.add("", "Must be a mapping that starts with the suite's name.")
        return None
    before = len(notes.problems)
    _check_keys(data, _HEADER_KEYS, notes)
    name = _line(data.get("name"), notes, "name", MAX_NAME)
    description = data.get("description") or ""
    if not isinstance(description, str) or len(description) > 5_000:
        notes.add("description", "Must be a text of at most 5,000 characters.")
    kind = one_of(*KINDS)(data.get("kind") or "eval", notes, "kind")
    primary = one_of(*PRIMARIES)(data.get("primary") or "mean", notes, "primary")
    sampling = _sampling(data.get("sampling"), notes)
    checks = read_checks(data.get("checks"), notes, "checks", has_target=None)
    quality = read_checks(data.get("quality"), notes, "quality", has_target=None)
    if any(check.type == "judge" for check in quality):
        notes.add("quality", "A judge cannot be asked while the run is sampled; use checks without a model.")
    gates = _gates(data.get("gates"), notes)
    if len(notes.problems) > before:
        return None
    return SuiteHeader(
        name=name,
        kind=kind,
        description=description,
        primary=primary,
        sampling=sampling,
        checks=checks,
        gates=gates,
        quality=quality,
    )


def read_samples(
    rows: Iterable[tuple[int | None, Any]], problems: list[Problem], header: SuiteHeader | None, source: Source
) -> tuple[SuiteSample, ...]:
    """``rows``: line and data, or the line's Problem. ``header`` None: it could not be read, so only the lines are judged."""
    before = len(problems)
    found: list[SuiteSample] = []
    seen: dict[str, int | None] = {}
    num_rows = 0
    for line, data in rows:
        num_rows += 1
        if isinstance(data, Problem):
            problems.append(data)
        else:
            notes = Notes(problems, source, lambda _path, line=line: line)  # type: ignore[misc]  # the line of this turn
            sample = _read_sample(data, num_rows, notes, header)
            if sample is not None:
                _check_identity(sample, line, seen, notes)
                found.append(sample)
        if num_rows > MAX_SAMPLES:
            problems.append(Problem(line, "", f"More than {MAX_SAMPLES:,} samples.", source))
            break
        if len(problems) - before >= MAX_PROBLEMS:
            problems.append(Problem(line, "", f"Not read further: {MAX_PROBLEMS} problems up to here.", source))
            break
    if not num_rows and not problems:
        problems.append(Problem(None, "samples", "There is not one sample.", source))
    return tuple(found)


def read_messages(value: Any, notes: Notes, name: str) -> Messages:
    """A text is one message of the user."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        notes.add(name, f"Must be a text, or 1 to {MAX_MESSAGES} messages with role and content.")
        return ()
    read = [_message(item, notes, f"{name}[{i}]" if len(value) > 1 else name) for i, item in enumerate(value)]
    if read[-1]["role"] != "user":
        notes.add(name, "Must end with a message of the user: that is what the model answers.")
    return tuple(read)


def _message(item: Any, notes: Notes, name: str) -> dict[str, str]:
    if not isinstance(item, dict) or set(item) - {"role", "content"} or item.get("role") not in _ROLES:
        notes.add(name, f"Must be a message with a role ({', '.join(_ROLES)}) and content.")
        return {"role": "user", "content": ""}
    if not isinstance(item.get("content"), str) or not item["content"].strip():
        notes.add(name, "Is empty.")
        return {"role": item["role"], "content": ""}
    return {"role": item["role"], "content": item["content"]}


def _read_sample(data: Any, number_: int, notes: Notes, header: SuiteHeader | None) -> SuiteSample | None:
    if not isinstance(data, dict):
        notes.add("", "Must be a mapping with an input.")
        return None
    before = len(notes.problems)
    _check_keys(data, _SAMPLE_KEYS, notes)
    identity = _line(str(number_) if data.get("id") is None else data["id"], notes, "id", 200)
    if data.get("input") is None:
        notes.add("input", "Is missing.")
        messages: Messages = ()
    else:
        messages = read_messages(data["input"], notes, "input")
    target = _target(data.get("target"), notes)
    category = _category(data, notes, header)
    metadata = data.get("metadata") or {}
    if not isinstance(metadata, dict):
        notes.add("metadata", "Must be a mapping.")
    elif header is not None and header.kind == "diversity":
        _check_diversity(metadata, notes)
    checks = read_checks(data.get("checks"), notes, "checks", has_target=bool(target))
    if header is not None:
        _check_against_header(header, checks, bool(target), notes)
    if len(notes.problems) > before:
        return None
    return SuiteSample(id=identity, input=messages, target=target, category=category, metadata=metadata, checks=checks)


def _check_against_header(header: SuiteHeader, checks: tuple[Check, ...], has_target: bool, notes: Notes) -> None:
    if header.kind == "eval" and not checks and not header.checks:
        notes.add("checks", "No check, and the header has none for all: nothing would be scored.")
    if not has_target:
        for check in header.checks:
            if needs_target(check):
                notes.add("target", f"Is missing: the header's check {check.type} compares with it.")


def _check_identity(sample: SuiteSample, line: int | None, seen: dict[str, int | None], notes: Notes) -> None:
    if sample.id in seen:
        first = seen[sample.id]
        notes.add("id", f"{short(sample.id)} is taken{f' by line {first}' if first else ''}.")
    seen.setdefault(sample.id, line)


def _check_diversity(metadata: dict[str, Any], notes: Notes) -> None:
    if not isinstance(metadata.get("open_ended", True), bool):
        notes.add("metadata.open_ended", "Must be true or false.")
    domain = metadata.get("domain", "all")
    if not isinstance(domain, str) or not domain.strip():
        notes.add("metadata.domain", "Must be a text that is not empty.")


def _category(data: dict[str, Any], notes: Notes, header: SuiteHeader | None) -> str:
    if data.get("category") is None:
        if header is not None and header.kind == "diversity":
            notes.add("category", "Is missing: diversity is compared within each category.")
        return ""
    return _line(data["category"], notes, "category", MAX_NAME)


def _target(value: Any, notes: Notes) -> tuple[str, ...]:
    if value is None or value in ("", []):
        return ()
    given = value if isinstance(value, list) else [value]
    told = [str(item) if isinstance(item, (int, float)) and not isinstance(item, bool) else item for item in given]
    if len(told) > 200 or not all(isinstance(item, str) and item.strip() for item in told):
        notes.add("target", "Must be a text, or at most 200 texts, none of them empty.")
        return ()
    return tuple(told)


def _line(value: Any, notes: Notes, name: str, most: int) -> str:
    told = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    if not isinstance(told, str) or not told.strip():
        notes.add(name, "Is missing." if value is None else "Is empty.")
        return ""
    told = told.strip()
    if len(told) > most:
        notes.add(name, f"Is longer than {most} characters.")
    elif not told.isprintable():
        notes.add(name, "Must be one line of printable characters.")
    return told


def _sampling(value: Any, notes: Notes) -> Sampling:
    if value is None:
        return Sampling()
    if not isinstance(value, dict):
        notes.add("sampling", "Must be a mapping such as {n: 4, temperature: 0.7}.")
        return Sampling()
    inner = notes.under("sampling")
    _check_keys(value, tuple(_SAMPLING), inner)
    before = len(notes.problems)
    read = {name: _SAMPLING[name](given, inner, name) for name, given in value.items() if name in _SAMPLING}
    if len(notes.problems) > before:
        return Sampling()
    sampling = Sampling(**read)
    if sampling.n > 1 and sampling.temperature == 0:
        inner.add("n", f"At temperature 0 all {sampling.n} answers are the same; set n to 1, or a temperature.")
    return sampling


def _gates(value: Any, notes: Notes) -> dict[str, Gate]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > 50:
        notes.add("gates", "Must be a mapping such as {pass_rate: {min_delta: -0.02}}.")
        return {}
    gates = {}
    for name, bounds in value.items():
        inner = notes.under(f"gates.{name[:60]}")
        if name not in GATED:
            inner.add("", f"No such score{nearest(name, GATED)}.")
        elif not isinstance(bounds, dict) or not bounds:
            inner.add("", "Must be a mapping with min, max, min_delta or max_delta.")
        else:
            _check_keys(bounds, ("min", "max", "min_delta", "max_delta"), inner)
            known = {key: bound for key, bound in bounds.items() if key in Gate.__dataclass_fields__}
            gates[name] = Gate(**{key: _GATE(bound, inner, key) for key, bound in known.items()})
    return gates


def _check_keys(data: dict[str, Any], known: tuple[str, ...], notes: Notes) -> None:
    unknown = [key for key in data if key not in known]
    for key in unknown[:_MAX_UNKNOWN]:
        notes.add(short(key), f"Unknown{nearest(key, known)}.")
    if len(unknown) > _MAX_UNKNOWN:
        notes.add("", f"{len(unknown) - _MAX_UNKNOWN:,} more keys are unknown.")


def implied_checks(header: SuiteHeader) -> tuple[Check, ...]:
    """The header's checks, or what its kind checks when it says nothing."""
    return header.checks or _IMPLIED.get(header.kind, ())
