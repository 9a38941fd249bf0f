"""What a suite's figures allow to be said, and how they are written."""

from __future__ import annotations

from typing import Any

from app.web.formats import interval, num, pct, plural, signed
from worker.alignment.evaluation.decision_words import ARM_NAMES

KINDS = {
    "eval": "Task",
    "diversity": "Diversity",
    "redteam": "Harmful requests",
    "benign": "Over-refusal",
}
METRICS = {
    "score": "score",
    "harmful_rate": "harmful compliance",
    "refusal_rate": "refusal rate",
    "pass_rate": "pass rate",
}
NOTHING = "–"  # noqa: RUF001 -- a dash as the pages have it
WORSE_UP = ("harmful_rate", "refusal_rate")


def kind(name: str) -> str:
    return KINDS.get(name, name)


def arm(name: str) -> str:
    """An arm as people call it: "Reference", "Checkpoint", "DPO, seed 0"; an endpoint goes by its own name."""
    base, _, seed = name.rpartition("-")
    if seed.isdecimal() and base in ARM_NAMES:
        return f"{ARM_NAMES[base]}, seed {seed}"
    return (ARM_NAMES | {"policy": "Checkpoint"}).get(name, name)


def share(estimate: dict[str, Any] | None) -> str:
    """As "82.5 %"; a dash where nothing is known."""
    return NOTHING if not estimate or estimate.get("value") is None else pct(estimate["value"])


def bounds(estimate: dict[str, Any] | None) -> str:
    """The interval as "79.1 to 85.3 %"; "" where there is none."""
    if not estimate or estimate.get("low") is None or estimate.get("high") is None:
        return ""
    return f"{num(100 * estimate['low'], 1)} to {num(100 * estimate['high'], 1)} %"


def points(difference: dict[str, Any] | None) -> str:
    """A difference of shares in points, with its interval."""
    if not difference or difference.get("value") is None:
        return NOTHING
    text = f"{signed(100 * difference['value'], 1)} points"
    if difference.get("low") is None or difference.get("high") is None:
        return f"{text}, too few samples for an interval"
    return f"{text} ({interval(100 * difference['low'], 100 * difference['high'], 1)})"


def verdict(difference: dict[str, Any] | None) -> tuple[str, str]:
    """(tone, sentence): better, worse, or no evidence with what could have been seen."""
    if not difference or difference.get("value") is None:
        return "", "Not compared with the reference."
    low, high = difference.get("low"), difference.get("high")
    metric = difference.get("metric", "score")
    name = METRICS.get(metric, metric)
    if low is None or high is None:
        return (
            "",
            f"No evidence either way: {plural(difference.get('n', 0), 'sample')} in common, too few for an interval.",
        )
    if low <= 0 <= high:
        seen = difference.get("detectable")
        could = f" (we could have seen {num(100 * seen, 1)} points or more)" if seen is not None else ""
        return "", f"No evidence of a difference in {name}{could}."
    worse = (low > 0) == (metric in WORSE_UP)
    word = "higher" if low > 0 else "lower"
    return ("bad" if worse else "ok"), f"{name.capitalize()} is {word} than the reference’s."  # noqa: RUF001


def failed_sentence(summary: dict[str, Any]) -> str:
    """As "of 412 samples, 9 failed": the count that stands beside every figure."""
    total, failed, wrong = (summary.get(name, 0) for name in ("num_samples", "num_failed", "num_wrong"))
    text = f"Of {plural(total, 'sample')}, {num(wrong)} failed a check"
    return f"{text}, {num(failed)} could not be judged." if failed else f"{text}."
