"""Which checks there are and what each may say: read, named wrong, and written back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.alignment.evaluation.suites import pii
from worker.alignment.evaluation.suites.instructions import INSTRUCTIONS, known_id, problems_of
from worker.alignment.evaluation.suites.options import Reader, flag, integer, number, one_of, short, text, texts
from worker.alignment.evaluation.suites.patterns import PatternError, compiled
from worker.alignment.evaluation.suites.problems import Notes, nearest
from worker.alignment.evaluation.suites.schemas import SchemaError, validator

MAX_CHECKS = 50


@dataclass(frozen=True, slots=True)
class Check:
    type: str
    weight: float = 1.0
    """Share in the sample's score; 0 shows the check and counts it nowhere."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """As declared for the type; what was not given is absent."""

    def to_json(self) -> dict[str, Any]:
        weight = {} if self.weight == 1 else {"weight": self.weight}
        return {"type": self.type, **self.options, **weight}


def _kinds(value: Any, notes: Notes, name: str) -> Any:
    kinds = texts(value, notes, name)
    for kind in kinds:
        one_of(*pii.KINDS)(kind, notes, name)
    return sorted(map(str, kinds))


def _pattern(value: Any, notes: Notes, name: str) -> Any:
    if not isinstance(value, str) or not value:
        notes.add(name, "Must be a regular expression.")
        return value
    try:
        compiled(value)
    except PatternError as error:
        notes.add(name, f"The pattern {error}.")
    return value


def _schema(value: Any, notes: Notes, name: str) -> Any:
    try:
        validator(value)
    except SchemaError as error:
        notes.add(name, str(error))
    return value


def _language(value: Any, notes: Notes, name: str) -> Any:
    if not isinstance(value, str) or not (len(value) == 2 and value.isascii() and value.isalpha()):
        notes.add(name, "Must be a two-letter code of ISO 639-1, such as de.")
        return value
    return value.lower()


def _scale(value: Any, notes: Notes, name: str) -> Any:
    ends = [number(-1000, 1000)(item, notes, name) for item in value] if isinstance(value, list) else []
    if len(ends) != 2 or None in ends or not ends[0] < ends[1]:
        notes.add(name, "Must be two numbers, the lowest first, such as [0, 1] or [1, 10].")
    return ends


def _keywords(value: Any, notes: Notes, name: str) -> Any:
    if not isinstance(value, dict):
        notes.add(name, "Must be a mapping of the instruction's arguments.")
        return {}
    return {key: inner for key, inner in value.items() if inner is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A family of checks."""

    words: str
    """What it asks, for the list of checks on the page."""
    options: Mapping[str, Reader] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    """At least one of these."""
    targets: str = ""
    """The option that the sample's target stands in for."""


_NOCASE = {"ignore_case": flag}
_COUNT = {"min": integer(0, 10**9), "max": integer(0, 10**9)}
_LIKE = {"value": texts, "min": number(0, 1), "max": number(0, 1)}


def _counted(what: str) -> Kind:
    return Kind(words=f"has between min and max {what}", options=_COUNT, one_of=("min", "max"))


_BASE: dict[str, Kind] = {
    "contains": Kind(words="contains the value", options={"value": text}, targets="value"),
    "contains-any": Kind(words="contains one of the values", options={"value": texts}, targets="value"),
    "contains-all": Kind(words="contains every value", options={"value": texts}, targets="value"),
    "icontains": Kind(words="contains the value in any case", options={"value": text}, targets="value"),
    "icontains-any": Kind(words="contains one of the values in any case", options={"value": texts}, targets="value"),
    "icontains-all": Kind(words="contains every value in any case", options={"value": texts}, targets="value"),
    "starts-with": Kind(words="starts with the value", options={"value": text, **_NOCASE}, targets="value"),
    "ends-with": Kind(words="ends with the value", options={"value": text, **_NOCASE}, targets="value"),
    "equals": Kind(words="is one of the values", options={"value": texts, "normalise": flag}, targets="value"),
    "regex": Kind(words="matches the pattern somewhere", options={"value": _pattern, **_NOCASE}, required=("value",)),
    "is-json": Kind(words="is JSON of the schema", options={"schema": _schema, "fenced": flag}),
    "refusal": Kind(words="refuses"),
    "language": Kind(words="is written in the language", options={"value": _language}, required=("value",)),
}
_ONLY: dict[str, Kind] = {
    "numeric": Kind(
        words="ends on the number, within the tolerance",
        options={"value": number(), "tolerance": number(0), "relative": flag},
        targets="value",
    ),
    "character-count": _counted("characters"),
    "word-count": _counted("words"),
    "sentence-count": _counted("sentences"),
    "paragraph-count": _counted("paragraphs"),
    "similarity": Kind(
        words="is as like the values (ROUGE-L) as min and max allow",
        options=_LIKE,
        one_of=("min", "max"),
        targets="value",
    ),
    "pii-free": Kind(words="holds no personal data or secrets", options={"kinds": _kinds, "allow": texts}),
    "ifeval": Kind(
        words="follows the IFEval instruction",
        options={"instruction_id": text, "kwargs": _keywords, "loose": flag},
        required=("instruction_id",),
    ),
    "judge": Kind(
        words="is scored by a judge model on the rubric",
        options={"rubric": text, "scale": _scale, "pass_at": number(-1000, 1000)},
        required=("rubric",),
    ),
}
CHECKS: dict[str, Kind] = {
    **_BASE,
    **{
        f"not-{name}": Kind(
            words=f"not: {kind.words}", options=kind.options, required=kind.required, targets=kind.targets
        )
        for name, kind in _BASE.items()
    },
    **_ONLY,
}
"""Every check by its name."""


def read_checks(value: Any, notes: Notes, name: str, *, has_target: bool | None) -> tuple[Check, ...]:
    """``has_target`` is None for a header's checks: whether each sample has one is seen there."""
    if value is None:
        return ()
    if not isinstance(value, list):
        notes.add(name, "Must be a list of checks, each with its type.")
        return ()
    if len(value) > MAX_CHECKS:
        notes.add(name, f"More than {MAX_CHECKS} checks.")
        return ()
    read = [_read_check(item, notes.under(f"{name}[{i}]"), has_target) for i, item in enumerate(value)]
    return tuple(check for check in read if check is not None)


def needs_target(check: Check) -> bool:
    target = CHECKS[check.type].targets
    return bool(target) and target not in check.options


def _read_check(item: Any, notes: Notes, has_target: bool | None) -> Check | None:
    if isinstance(item, str):
        item = {"type": item}
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        notes.add("", "Must be a mapping with a type, such as {type: contains, value: refund}.")
        return None
    name: str = item["type"]
    if name not in CHECKS:
        notes.add("type", f"There is no check {short(name)}{nearest(name, CHECKS)}.")
        return None
    kind = CHECKS[name]
    before = len(notes.problems)
    options: dict[str, Any] = {}
    for key, value in item.items():
        if key in {"type", "weight"} or value is None:
            continue
        if key in kind.options:
            options[key] = kind.options[key](value, notes, key)
        else:
            notes.add(key, f"{name} has no option {short(key)}{nearest(key, [*kind.options, 'weight'])}.")
    weight = number(0, 1000)(item.get("weight", 1), notes, "weight")
    if len(notes.problems) == before:
        _check_whole(name, kind, options, notes, has_target)
    return Check(name, weight, options) if len(notes.problems) == before else None


def _check_whole(name: str, kind: Kind, options: dict[str, Any], notes: Notes, has_target: bool | None) -> None:
    for key in kind.required:
        if key not in options:
            notes.add(key, f"{name} needs {key}.")
    if kind.one_of and not any(key in options for key in kind.one_of):
        notes.add("", f"{name} needs {' or '.join(kind.one_of)}.")
    if {"min", "max"} <= options.keys() and options["min"] > options["max"]:
        notes.add("min", "Must not be above max.")
    if kind.targets and kind.targets not in options and has_target is False:
        notes.add(kind.targets, f"{name} needs {kind.targets}, or a target in the sample.")
    if name == "ifeval" and "instruction_id" in options:
        _check_instruction(options, notes)
    if name == "judge" and "pass_at" in options:
        low, high = options.get("scale", [0.0, 1.0])
        if not low <= options["pass_at"] <= high:
            notes.add("pass_at", f"Must lie on the scale, {low:g} to {high:g}.")


def _check_instruction(options: dict[str, Any], notes: Notes) -> None:
    given = options["instruction_id"]
    identity = known_id(given)
    if identity is None:
        notes.add("instruction_id", f"There is no instruction {short(given)}{nearest(given, INSTRUCTIONS)}.")
        return
    options["instruction_id"] = identity
    for key, message in problems_of(identity, options.get("kwargs", {})):
        notes.add(f"kwargs.{key}" if key else "kwargs", message)
