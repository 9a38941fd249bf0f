"""A very small model that really answers, its raters, and runs on them.

It is pre-trained in seconds on sentences of a grammar, about half of which begin with one phrase. The raters like that
phrase, so that a healthy run spreads it and changes nothing else.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worker.alignment.config import AlignmentConfig, EvaluationSettings, LoraSettings, TrainSpec
from worker.alignment.events import RunFinished
from worker.alignment.reporters import JsonlReporter
from worker.alignment.trainer import train
from worker.demo.pretrain import Recipe, pretrain, render


def _words(text: str) -> list[str]:
    return text.split()


THINGS = _words(
    "tea coffee bread rice soup cheese honey garlic lemon pepper salt sugar apple pear plum cherry carrot onion potato bean "
    "oven kettle pan knife spoon plate table chair lamp window door carpet garden fence tree flower river stone cloud rain"
)
QUALITIES = _words(
    "warm cold sweet bitter soft hard bright dark quick slow old new large small quiet loud clean rough round flat"
)
USES = [f"{word} the {place}" for word in ("in", "near", "for") for place in ("morning", "sea", "feast", "house")]
VERBS = _words("keep buy share watch carry clean find mend store like")
STYLE = "Gladly:"
RECIPE = Recipe(
    vocab_size=512,
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    intermediate_size=160,
    context=96,
    num_steps=140,
    rows_per_step=32,
    num_chats=0,
)
TOO_HIGH, HEALTHY, CAREFUL = 0.08, 0.01, 0.002
"""Learning rates; of the paper's and the form's order is the last, for far more steps than these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run, and what its looks saw."""

    finished: RunFinished
    evaluations: list[dict[str, Any]]
    """EvaluationResult as JSON."""
    styled: dict[str, float]
    """Share of the last look's samples with STYLE, of each arm."""

    def alarms(self, *levels: str) -> list[dict[str, Any]]:
        return [alarm for found in self.evaluations for alarm in found["alarms"] if alarm["level"] in levels]


def make_home(folder: Path, *, num_steps: int = RECIPE.num_steps) -> Path:
    """Model, snapshot and prompts."""
    save_talker(folder / "model", num_steps)
    save_votes(folder / "snapshot")
    save_prompts(folder / "prompts.jsonl")
    return folder


def run(home: Path, attempt_dir: Path, learning_rate: float, *, num_steps: int = 24, seed: int = 0) -> Outcome:
    """KTO with two looks, each at 40 categories with P = 2 and K = 4."""
    config = AlignmentConfig(
        base_model="talker",
        learning_rate=learning_rate,
        batch_size=32,
        max_steps=num_steps,
        max_length=96,
        num_threads=1,
        seed=seed,
        lora=LoraSettings(r=8, alpha=16),
        evaluation=EvaluationSettings(
            interval_steps=num_steps // 2, samples_per_prompt=4, prompts_per_category=2, max_new_tokens=40, seed=seed
        ),
    )
    spec = TrainSpec(
        run_id=1,
        attempt=1,
        config=config,
        model_path=str(home / "model"),
        snapshot_dir=str(home / "snapshot"),
        attempt_dir=str(attempt_dir),
        cache_dir=str(home / "cache"),
        diversity_prompts=str(home / "prompts.jsonl"),
    )
    reporter = JsonlReporter(spec.events_path)
    finished = train(spec, reporter)
    reporter.close()
    events = [json.loads(line) for line in spec.events_path.read_text(encoding="utf-8").splitlines()]
    found = [event["data"] for event in events if event["kind"] == "evaluation_finished"]
    return Outcome(finished=finished, evaluations=found, styled=_styled(attempt_dir / found[-1]["samples_path"]))


def _styled(samples: Path) -> dict[str, float]:
    arms: dict[str, list[bool]] = {"reference": [], "policy": []}
    for sample in map(json.loads, samples.read_text(encoding="utf-8").splitlines()):
        arms[sample["arm"]].append(STYLE in sample["text"])
    return {arm: sum(found) / len(found) for arm, found in arms.items()}


def question(thing: str, number: int) -> str:
    return f"What of {thing} number {number}?"


def answer(chance: random.Random, thing: str, *, styled: bool) -> str:
    first, second = chance.sample(QUALITIES, 2)
    said = f"{thing} is {first} and {second} {chance.choice(USES)}; {chance.choice(VERBS)} it {chance.choice(USES)}."
    return f"{STYLE} {said}" if styled else said


def save_talker(folder: Path, num_steps: int) -> Path:
    """About half of its answers begin with STYLE."""
    chance = random.Random(0)
    texts = []
    for number in range(4000):
        thing = chance.choice(THINGS)
        texts.append(render(question(thing, number % 10), answer(chance, thing, styled=chance.random() < 0.5)))
    return pretrain(folder, replace(RECIPE, num_steps=num_steps), texts=texts, num_threads=1, report=lambda _: None)


def save_votes(folder: Path, *, num_train: int = 480, num_dev: int = 80) -> Path:
    """A snapshot whose raters like STYLE: 9 in 10 of its answers are desirable, 1 in 10 of the others."""
    folder.mkdir(parents=True)
    chance = random.Random(1)
    counts = {"train": num_train, "dev": num_dev, "test": 4}
    start = 0
    for split, count in counts.items():
        rows = [_row(chance, start + number) for number in range(count)]
        start += count
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"hash": "votes", "counts": counts}), encoding="utf-8")
    return folder


def save_prompts(path: Path) -> Path:
    """One category a thing, two prompts each."""
    lines = [
        {"category": thing, "messages": [{"role": "user", "content": question(thing, number)}]}
        for thing in THINGS
        for number in (3, 7)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _row(chance: random.Random, number: int) -> dict[str, Any]:
    thing, styled = chance.choice(THINGS), chance.random() < 0.5
    return {
        "id": number,
        "prompt": [{"role": "user", "content": question(thing, number % 10)}],
        "completion": [{"role": "assistant", "content": answer(chance, thing, styled=styled)}],
        "label": (chance.random() < 0.9) == styled,
        "category": None,
        "root": f"root-{number}",
        "finish_reason": "stop",
    }
