"""Earlier evaluations of a run, read back from its attempts' folders: an alarm asks whether the look before saw the same."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from worker.alignment.events import Alarm, EvaluationResult

RESULT = "result.json"


def evaluation_folder(step: int) -> Path:
    """Relative to the attempt's folder."""
    return Path("evaluations") / f"step-{step:06d}"


def previous_look(attempt_dir: Path, resume_from: Path | None, step: int) -> EvaluationResult | None:
    """The newest evaluation before ``step`` of this attempt, else of the one that it went on from, and so on.

    Damaged files count as missing: the alarm then waits for one more look.
    """
    folder: Path | None = attempt_dir
    before = resume_from
    for _ in range(1000):  # an attempt is in no chain twice, unless its files were moved
        if folder is None:
            return None
        steps = sorted(
            (found for path in folder.glob("evaluations/step-*") if (found := _step(path)) < step), reverse=True
        )
        for found in steps:
            if (result := read_look(folder / evaluation_folder(found) / RESULT)) is not None:
                return result
        folder = before.parent.parent if before is not None else None
        before = _resumed_from(folder) if folder is not None else None
    return None


def read_look(path: Path) -> EvaluationResult | None:
    """A stored result; None where there is none, or none of the agreed form."""
    try:
        found: EvaluationResult = of_json(EvaluationResult, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found


def alarms_in(data: dict[str, Any]) -> list[Alarm]:
    """The alarms of an ``evaluation_finished`` event; none in one of an older version."""
    return [of_json(Alarm, alarm) for alarm in data.get("alarms") or []]


def of_json(hint: Any, value: Any) -> Any:
    """``value``, as ``dataclasses.asdict`` and JSON left it, as the type ``hint``. Unknown fields are left out."""
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        missing = [f.name for f in fields(hint) if f.default is MISSING and f.default_factory is MISSING]
        if any(name not in value for name in missing):
            raise KeyError(f"{hint.__name__} lacks one of {missing}")
        return hint(**{name: of_json(hints[name], value[name]) for name in hints if name in value})
    origin, inner = get_origin(hint), get_args(hint)
    if origin is list:
        return [of_json(inner[0], item) for item in value]
    if origin is dict:
        return {key: of_json(inner[1], item) for key, item in value.items()}
    if origin in {Union, UnionType}:
        kind = next(kind for kind in inner if kind is not type(None))
        return None if value is None else of_json(kind, value)
    return value


def _step(path: Path) -> int:
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() else 2**62


def _resumed_from(attempt_dir: Path) -> Path | None:
    """Where an earlier attempt went on from, as the spec beside it says; None without one."""
    try:
        found = json.loads((attempt_dir / "spec.json").read_text(encoding="utf-8")).get("resume_from")
    except (OSError, ValueError, AttributeError):
        return None
    return Path(found) if isinstance(found, str) else None
