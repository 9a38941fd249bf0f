"""What the form of a comparison asks: seeds, each arm's own knobs, the measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from app.core.errors import InvalidError

MAX_SEEDS, MAX_POINTS, MAX_RUNS = 5, 9, 40
MAX_PROMPT = 8000
GUARD = "guard-"
"""A guard's checkbox is named by the id of its suite version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonForm:
    launch_key: str
    num_seeds: int = 1
    dpo_grid: tuple[dict[str, float], ...] = ()
    kto_grid: tuple[dict[str, float], ...] = ()
    """The run's own knobs come first."""
    paired: bool = True
    """Train KTO on DPO's own pairs too."""
    system_prompt: str = ""
    """Of the prompt-only arm; "" leaves that arm out."""
    primary: int | None = None
    """Suite version that decides; None: the held-out votes."""
    guards: tuple[int, ...] = field(default=())
    judge: int | None = None

    @property
    def num_new_runs(self) -> int:
        """The run itself is the first seed of KTO-all at its own knobs."""
        per_seed = len(self.dpo_grid) + len(self.kto_grid) * (2 if self.paired else 1)
        return per_seed * self.num_seeds - 1


def parse(typed: Mapping[str, str], own: dict[str, float]) -> ComparisonForm:
    """``own`` are the run's knobs: beta and learning_rate. Raises InvalidError with a sentence per field."""
    errors: dict[str, str] = {}
    num_seeds = _whole(typed, "num_seeds", 1, errors)
    if num_seeds is not None and not 1 <= num_seeds <= MAX_SEEDS:
        errors["num_seeds"] = f"must lie between 1 and {MAX_SEEDS}"
    grids = {name: _grid(typed, name, own, errors) for name in ("dpo", "kto")}
    if len(typed.get("system_prompt", "")) > MAX_PROMPT:
        errors["system_prompt"] = f"must have at most {MAX_PROMPT:,} characters"
    form = ComparisonForm(
        launch_key=typed.get("launch_key", "")[:100],
        num_seeds=num_seeds or 1,
        dpo_grid=grids["dpo"],
        kto_grid=(own, *(point for point in grids["kto"] if point != own)),
        paired="paired" in typed,
        system_prompt=typed.get("system_prompt", "").strip(),
        primary=_whole(typed, "primary", None, errors),
        guards=tuple(sorted(int(name.removeprefix(GUARD)) for name in typed if _is_guard(name))),
        judge=_whole(typed, "judge", None, errors),
    )
    if not errors and form.num_new_runs > MAX_RUNS:
        errors["num_seeds"] = f"these seeds and knobs make {form.num_new_runs} runs; {MAX_RUNS} at most"
    if errors:
        raise InvalidError("Some values do not fit.", fields=errors)
    if not form.launch_key:
        raise InvalidError("Open the page again: this form has no key.")
    return form


def typed_defaults(own: dict[str, float]) -> dict[str, Any]:
    """An untouched form: one seed, every arm at the run's own knobs."""
    knobs = {f"{arm}_{name}": f"{value:g}" for arm in ("dpo", "kto") for name, value in own.items()}
    return {"num_seeds": "1", "paired": "1", "system_prompt": "", "primary": "", "judge": "", **knobs}


def _grid(
    typed: Mapping[str, str], arm: str, own: dict[str, float], errors: dict[str, str]
) -> tuple[dict[str, float], ...]:
    """Every combination of the values typed for beta and learning rate, separated by commas or spaces."""
    values = {
        name: _numbers(typed.get(f"{arm}_{name}", ""), f"{arm}_{name}", high, errors) or (own[name],)
        for name, high in (("beta", 10.0), ("learning_rate", 1.0))
    }
    points = tuple({"beta": beta, "learning_rate": rate} for beta, rate in product(*values.values()))
    if len(points) > MAX_POINTS:
        errors[f"{arm}_beta"] = f"{len(points)} combinations; {MAX_POINTS} at most"
    return points[:MAX_POINTS]


def _numbers(text: str, name: str, high: float, errors: dict[str, str]) -> tuple[float, ...]:
    found: list[float] = []
    for word in text.replace(",", " ").replace(";", " ").split():
        try:
            value = float(word)
        except ValueError:
            errors[name] = f"{word[:40]!r} is no number"
            return ()
        if not (math.isfinite(value) and 0 < value <= high):
            errors[name] = f"must be above 0 and at most {high:g}"
            return ()
        found += [value] if value not in found else []
    return tuple(found)


def _whole(typed: Mapping[str, str], name: str, default: int | None, errors: dict[str, str]) -> int | None:
    text = typed.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or len(text) > 9:
        errors[name] = "must be a whole number"
        return default
    return int(text)


def _is_guard(name: str) -> bool:
    number = name.removeprefix(GUARD)
    return name.startswith(GUARD) and number.isdecimal() and len(number) <= 9
