"""The two tasks of ``bench.learning``: where their base model, rows and settings come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.learning_data import (
    Judged,
    Side,
    demo_rows,
    folds,
    human_rows,
    pretraining_texts,
    shared_data,
)
from bench.learning_runs import Task
from worker.alignment.config import AlignmentConfig, EvaluationSettings
from worker.alignment.weights import advised_weights
from worker.demo.feedback import write_feedback
from worker.demo.pretrain import Recipe, pretrain

NUM_SEEDS = 3
BATCH_SIZE = 32
CONTEXT = 512

Report = Callable[[str], None]


def human_tasks(folder: Path, cache: Path, *, quick: bool, report: Report) -> list[Task]:
    """Human judgments of many sources, and a base model of 1M parameters that has read books and other answers."""
    data = shared_data()
    rows = human_rows(data, max_bytes=300 if quick else 500)
    parts = folds(rows, number=NUM_SEEDS, multiple_of=BATCH_SIZE)
    texts = pretraining_texts(data, rows, parts[0]["dev"], num_passages=200 if quick else 2500, passage_bytes=500)
    recipe = Recipe(
        vocab_size=1536,
        hidden_size=128,
        num_layers=4,
        num_heads=4,
        intermediate_size=352,
        context=CONTEXT,
        num_steps=30 if quick else 240,
    )
    base = _base(cache, "human", recipe, texts, report)
    if quick:
        parts = [parts[0] | {"train": parts[0]["train"][: 15 * BATCH_SIZE], "test": parts[0]["test"][:300]}]
    return _tasks(folder, base, parts, learning_rate=2e-3, num_epochs=1)


def demo_tasks(folder: Path, cache: Path, *, quick: bool, report: Report) -> list[Task]:
    """The demo's own base model, its sampled answers and its simulated raters, 5 % of whose thumbs go the wrong way."""
    recipe = Recipe(num_steps=100) if quick else Recipe()
    num = 800 if quick else 1600
    base = _base(cache, "demo", recipe, None, report)
    rated = base / f"feedback-{num}.jsonl"  # inside the base: another recipe makes another folder
    if not rated.is_file():
        write_feedback(rated, base, seed=0, num=num, report=report)
    records = [json.loads(line) for line in rated.read_text(encoding="utf-8").splitlines()]
    parts = folds(demo_rows(records), number=NUM_SEEDS, multiple_of=BATCH_SIZE)
    if quick:  # a steeper rate for fewer steps
        return _tasks(folder, base, parts[:1], learning_rate=2e-3, num_epochs=1)
    return _tasks(folder, base, parts, learning_rate=5e-4, num_epochs=1)


def _base(cache: Path, name: str, recipe: Recipe, texts: list[str] | None, report: Report) -> Path:
    """One folder for each recipe, so that the quick form and the full one do not push each other out."""
    key = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:12]
    return pretrain(cache / f"{name}-{key}", recipe, texts=texts, num_threads=1, report=report)


def _tasks(
    folder: Path, base: Path, parts: Sequence[dict[Side, list[Judged]]], *, learning_rate: float, num_epochs: int
) -> list[Task]:
    """One for each seed, with its own part held out."""
    found = []
    for seed, sides in enumerate(parts):
        weights = _weights(sides["train"])
        config = AlignmentConfig(
            base_model=base.name,
            desirable_weight=weights[0],
            undesirable_weight=weights[1],
            learning_rate=learning_rate,
            num_epochs=num_epochs,
            batch_size=BATCH_SIZE,
            max_length=CONTEXT,
            seed=seed,
            num_threads=1,
            evaluation=EvaluationSettings(interval_steps=100_000),  # at the end only
        )
        found.append(
            Task(base=base, sides=sides, config=config, folder=folder / f"seed-{seed}", cache=folder / "cache")
        )
    return found


def _weights(rows: Sequence[Judged]) -> tuple[float, float]:
    """Written out, so that both trainers get the same numbers."""
    num_desirable = sum(each.label for each in rows)
    weights = advised_weights(num_desirable, len(rows) - num_desirable)
    return weights.desirable, weights.undesirable
