"""A run of many categories and checkpoints in the form that a full evaluation has: some categories collapse, one domain, the rest wander."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from app.evaluations.service import record_screen
from app.models import Evaluation, Run
from tests.evaluations.support import checkpoint_of, contrast, heldout

STEPS = (80, 160, 240, 320, 400, 480, 560, 640, 720, 800, 880, 960, 1038)
DOMAINS = {
    "Creative writing": 38,
    "Rewriting and style": 31,
    "Summarisation": 36,
    "Dialogue": 29,
    "Question generation": 42,
    "Open questions": 47,
    "Explanation": 33,
    "Planning": 21,
    "Persuasion": 15,
    "Advice": 24,
    "Banking requests": 77,
    "Cards and accounts": 45,
    "Travel": 38,
    "Home and devices": 64,
    "Small talk": 21,
    "Translation": 26,
    "Classification": 33,
    "Extraction": 18,
    "Code": 12,
    "Maths and logic": 11,
}
CLOSED = ("Translation", "Classification", "Extraction", "Code", "Maths and logic")
COLLAPSED = {"Creative writing": 3, "Persuasion": 2, "Banking requests": 1, "Small talk": 1}
"""How many categories of a domain collapse."""
OPENINGS = (
    "The lighthouse was dark",
    "Nobody warned Ada",
    "By the time we came",
    "A letter lay there",
    "Rain fell",
    "He ran",
)


def name_of(domain: str, number: int) -> str:
    return f"{domain}, task {number + 1}"


def categories(step: int, pull: float, scale: int = 1, seed: int = 3) -> list[dict[str, Any]]:
    """``pull`` (0 to 1): how far the collapse has come. ``scale`` divides the size of the domains."""
    found = []
    for domain, count in DOMAINS.items():
        for number in range(max(count // scale, 1)):
            own = Random(f"{seed} {domain} {number}")
            noise = Random(f"{seed} {domain} {number} {step}")
            collapsed = number < COLLAPSED.get(domain, 0)
            drift = 0.096 - 0.008 * number if collapsed else own.gauss(0.004, 0.012)
            found.append(_category(domain, number, drift * pull + noise.gauss(0, 0.005), collapsed and pull > 0.3))
    return found


def _category(domain: str, number: int, change: float, significant: bool) -> dict[str, Any]:
    metrics = {
        "similarity": contrast(0.3, 0.3 + change * 0.9),
        "similarity_gated": contrast(0.3, 0.3 + change * 0.9),
        "similarity_normalised": contrast(0.2, 0.2 + change),
        "distinct_k": contrast(6.5, 6.5 - change * 30),
        "ead": contrast(0.6, 0.6 - change / 2),
        "mean_words": contrast(40.0, 41.0),
        "loop_rate": contrast(0.001, 0.001),
        "truncated_share": contrast(0.004, 0.004),
        "refusal_share": contrast(0.01, 0.012),
        "empty_share": contrast(0.0, 0.0),
    }
    open_ended = domain not in CLOSED
    return {
        "category": name_of(domain, number),
        "domain": domain,
        "open_ended": open_ended,
        "num_prompts": 2,
        "num_gated_prompts": 2,
        "p": 0.0001 if significant else 0.4 if open_ended else None,
        "q": 0.001 if significant else 0.82 if open_ended else None,
        "metrics": metrics,
    }


def result(
    step: int, pull: float, *, scale: int = 1, power: float | None = 0.9, alarmed: bool = False
) -> dict[str, Any]:
    """EvaluationResult as a dict, as the job and the training child give it."""
    rows = categories(step, pull, scale)
    keys = rows[0]["metrics"]
    mean = {key: sum(row["metrics"][key]["change"] for row in rows) / len(rows) for key in keys}
    overall = {
        key: contrast(rows[0]["metrics"][key]["reference"], rows[0]["metrics"][key]["reference"] + mean[key], 0.005)
        for key in keys
    }
    alarms = [_alarm(row) for row in rows if alarmed and row["q"] == 0.001]
    diversity = {
        "num_categories": len(rows),
        "num_prompts": 2 * len(rows),
        "samples_per_prompt": 4,
        "overall": overall,
        "categories": rows,
        "domains": [],
        "across": {
            "compression_ratio": contrast(2.4, 2.6, 0.1),
            "opening_share": contrast(0.02, 0.06, 0.01),
            "self_repetition": contrast(1.1, 1.4, 0.1),
            "median_words": contrast(38.0, 40.0, 2.0),
            "p95_words": contrast(90.0, 92.0, 4.0),
        },
        "quality_rule": "Samples are weighed towards answers that raters find desirable.",
        "num_categories_tested": sum(row["open_ended"] for row in rows),
        "detectable_change": 0.009,
        "category_power": power,
        "style_shift": False,
    }
    return {
        "step": step,
        "kind": "screen",
        "heldout": heldout(),
        "diversity": diversity,
        "alarms": alarms,
        "samples_path": f"evaluations/step-{step:06d}/samples.jsonl",
        "seconds": 140.0,
    }


def _alarm(row: dict[str, Any]) -> dict[str, Any]:
    figure = row["metrics"]["similarity_normalised"]
    return {
        "kind": "category",
        "level": "alarm",
        "metric": "similarity_normalised",
        "reference": figure["reference"],
        "policy": figure["policy"],
        "change": figure["change"],
        "subject": row["category"],
        "text": f"{row['category']}: samples are more alike than the reference's by {figure['change']:.3f}, at two checkpoints in a row.",
        "low": None,
        "high": None,
        "q": row["q"],
    }


def critical(step: int) -> dict[str, Any]:
    return {
        "kind": "loops",
        "level": "critical",
        "metric": "loop_rate",
        "reference": 0.001,
        "policy": 0.12,
        "change": 0.119,
        "subject": "",
        "text": f"12.0 % of the samples at step {step:,} repeat themselves, against 0.1 % of the reference's.",
        "low": 0.1,
        "high": 0.14,
        "q": None,
    }


def write_samples(folder: Path, data: dict[str, Any], names: tuple[str, ...]) -> None:
    """Two prompts of four samples an arm; the policy's share an opening at the second prompt."""
    path = folder / data["samples_path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for name in names:
        for prompt in range(2):
            for arm in ("reference", "policy"):
                for index in range(4):
                    same = arm == "policy" and prompt == 1 and index < 3
                    words = "".join(
                        chr(ord("a") + (index * 5 + place + (arm == "policy") * 7) % 26) * 4 + " " for place in range(9)
                    )
                    opening = "In the quiet village of" if same else OPENINGS[(index + prompt) % len(OPENINGS)]
                    ending = "a young girl found the same old key." if same else words
                    lines.append(
                        {
                            "category": name,
                            "prompt": [{"role": "user", "content": f"{name}: begin a text, number {prompt + 1}."}],
                            "arm": arm,
                            "index": index,
                            "text": f"{opening} {'Elmsworth, ' if same else ''}{ending}".strip(),
                            "truncated": index == 3 and arm == "reference",
                        }
                    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def record_run(
    factory: Any, run: Run, folder: Path, *, steps: tuple[int, ...] = STEPS, scale: int = 1, power: float | None = 0.9
) -> list[Evaluation]:
    """A whole run, its alarms standing from the seventh checkpoint on."""
    recorded = []
    for place, step in enumerate(steps):
        data = result(step, place / max(len(steps) - 1, 1), scale=scale, power=power, alarmed=place >= len(steps) // 2)
        names = tuple(row["subject"] for row in data["alarms"]) or (name_of("Travel", 0),)
        write_samples(folder, data, names)
        checkpoint = checkpoint_of(factory, run, step)
        recorded.append(record_screen(factory.db, run=run, checkpoint=checkpoint, data=data, attempt_dir=folder))
    return recorded
