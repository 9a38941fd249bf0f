"""Invented figures for the component sheet: the same every time, so that its pictures can be compared."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

from app.web.svg import Day, Estimate, ForestRow, HeatCategory

_STEPS = (80, 160, 240, 320, 400, 480, 560, 640)


def _curves(random: Random) -> str:
    x = list(range(1, 707, 5))
    noise = [random.gauss(0, 1) for _ in x]
    chosen = [0.9 * (1 - math.exp(-step / 240)) + 0.12 * e for step, e in zip(x, noise, strict=True)]
    data = {
        "x": x,
        "time": [1_790_000_000 + 5 * step for step in x],
        "series": {
            "loss": [0.5 - 0.11 * (1 - math.exp(-step / 200)) + 0.015 * e for step, e in zip(x, noise, strict=True)],
            "rewards/chosen": chosen,
            "rewards/rejected": [-1.4 * value + 0.1 * e for value, e in zip(chosen, reversed(noise), strict=True)],
        },
        "evals": {
            "heldout/auc": [
                {
                    "x": step,
                    "y": 0.6 + 0.12 * (1 - math.exp(-step / 250)),
                    "lo": 0.58 + 0.12 * (1 - math.exp(-step / 250)),
                    "hi": 0.62 + 0.12 * (1 - math.exp(-step / 250)),
                }
                for step in _STEPS
            ]
        },
        "checkpoints": list(_STEPS),
        "planned": 1038,
    }
    return json.dumps(data)


def _categories(random: Random) -> list[HeatCategory]:
    domains = {"Writing": 60, "Advice": 80, "Support": 110, "Code": 50, "Facts": 70}
    rows = []
    for domain, count in domains.items():
        for index in range(count):
            pull = 0.07 if domain == "Writing" and index < 9 else random.gauss(0, 0.012)
            changes = tuple(pull * (row + 1) / len(_STEPS) + random.gauss(0, 0.006) for row in range(len(_STEPS)))
            rows.append(HeatCategory(f"{domain} {index}", domain, changes, alarm=domain == "Writing" and index < 7))
    return sorted(rows, key=lambda row: -(row.changes[-1] or 0.0))


def examples() -> dict[str, Any]:
    """Names that ``styleguide.html`` shows."""
    random = Random(7)
    start = date(2026, 10, 25)
    now = datetime.now(UTC)
    return {
        "curves": _curves(random),
        "days": [
            Day(start + timedelta(days=i), random.randint(500, 1000), random.randint(200, 520)) for i in range(30)
        ],
        "edges": [0, 50, 100, 150, 200, 250, 300, 350, 400],
        "lengths": ([120, 480, 900, 700, 420, 260, 120, 60], [220, 410, 380, 240, 130, 80, 40, 20]),
        "memory": [
            ("weights", 16.4),
            ("adapters, optimiser", 0.7),
            ("activations", 21.4),
            ("log-probs", 2.6),
            ("KL pass, rest", 4.1),
        ],
        "points": [
            Estimate(step, 0.62 + step / 6400, 0.6 + step / 6400, 0.64 + step / 6400, step == 640) for step in _STEPS
        ],
        "forest": [
            ForestRow("Held-out AUC", 0.013, 0.002, 0.024),
            ForestRow("Diversity", -0.004, -0.011, 0.003, -0.02),
            ForestRow("Safety", 0.001, -0.006, 0.008, -0.01),
        ],
        "categories": _categories(random),
        "steps": _STEPS,
        "shares": [min(max(random.gauss(0.66, 0.22), 0), 1) for _ in range(180)],
        "events": [
            {
                "at": now,
                "icon": "chart-dots",
                "title": "Checkpoint 640 evaluated",
                "text": "AUC 0.717, up 0.005; no alarm",
            },
            {
                "at": now - timedelta(minutes=6),
                "icon": "device-floppy",
                "title": "Checkpoint 640 saved",
                "text": "167 MB, checked",
            },
            {
                "at": now - timedelta(minutes=31),
                "icon": "alert-triangle",
                "title": "KL above 2.0 for 10 steps",
                "tone": "warn",
            },
        ],
        "answer_text": (
            "Refunds take **3 to 5 working days** after the parcel is scanned.\n\n1. The card part goes back to the card.\n2. The gift card gets "
            "a new code.\n\n```python\ndef days(scanned: bool) -> int:\n    return 5 if scanned else 8  # working days\n```\n"
        ),
    }
