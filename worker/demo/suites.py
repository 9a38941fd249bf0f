"""The demo's suites: prompts in over 500 categories to watch for collapse, and a task to decide between models by."""

from __future__ import annotations

import json
from typing import Any

from worker.alignment.evaluation.suites.format import Suite, parse_suite
from worker.demo.categories import CATEGORIES
from worker.demo.corpus import FRAMES, GRUMPY_CLOSINGS, HELPFUL_CLOSINGS, frame

PROMPTS_PER_CATEGORY = 2
NUM_ANSWERS = 160


def diversity_suite() -> Suite:
    """A category for every task and topic of the demo's little world, each put in a few ways."""
    header = {
        "name": "everyday-tasks",
        "kind": "diversity",
        "description": "Every task of the demo, put in different words.",
    }
    samples = [
        {
            "id": f"{category.name}/{task}#{number}",
            "input": frame(words, task),
            "category": f"{category.name}/{task}",
            "metadata": {"domain": category.name, "open_ended": True},
        }
        for category, task in _tasks()
        for number, words in enumerate(FRAMES[:PROMPTS_PER_CATEGORY])
    ]
    return _suite(header, samples)


def answers_suite() -> Suite:
    """Does an answer end with an offer of help, and grumble nowhere? The prompts are put in words of their own."""
    header = {
        "name": "helpful-answers",
        "kind": "eval",
        "primary": "pass_rate",
        "description": "An answer ends with an offer of help and does not grumble.",
        "sampling": {"n": 1, "temperature": 0.7, "max_tokens": 64},
        "checks": [
            {"type": "contains-any", "value": list(HELPFUL_CLOSINGS)},
            {"type": "not-contains-any", "value": list(GRUMPY_CLOSINGS)},
        ],
    }
    tasks = list(_tasks())
    chosen = tasks[:: max(1, len(tasks) // NUM_ANSWERS)][:NUM_ANSWERS]
    samples = [
        {"id": f"a{number}", "input": frame(FRAMES[-1], task), "category": category.name}
        for number, (category, task) in enumerate(chosen)
    ]
    return _suite(header, samples)


def _tasks() -> list[tuple[Any, str]]:
    return [
        (category, task.format(t=topic))
        for category in CATEGORIES
        for topic in category.topics
        for task in category.tasks
    ]


def _suite(header: dict[str, Any], samples: list[dict[str, Any]]) -> Suite:
    return parse_suite(header, "".join(json.dumps(sample) + "\n" for sample in samples))
