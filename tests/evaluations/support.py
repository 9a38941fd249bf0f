"""Runs, checkpoints and results for tests of evaluations, versions and Home."""

from __future__ import annotations

import json
import shutil
from itertools import count
from pathlib import Path
from typing import Any

from app.core.storage import artifact_path
from app.models import Checkpoint, Evaluation, EvaluationAlarm, Project, Run, Snapshot

_numbers = count(1)
CONTRASTS = ("similarity", "distinct_k", "ead", "mean_words", "loop_rate", "truncated_share")


def estimate(value: float | None, low: float | None = None, high: float | None = None, n: int = 120) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n}


def contrast(reference: float, policy: float, half: float | None = None) -> dict[str, Any]:
    change = policy - reference
    bounds = (None, None) if half is None else (change - half, change + half)
    return {"reference": reference, "policy": policy, "change": change, "low": bounds[0], "high": bounds[1]}


def heldout(**changes: Any) -> dict[str, Any]:
    return {
        "num_desirable": 80,
        "num_undesirable": 60,
        "accuracy": estimate(0.66, 0.6, 0.72),
        "auc": estimate(0.74, 0.7, 0.78),
        "auc_within_prompt": estimate(0.68, 0.62, 0.74, 64),
        "auc_length": estimate(0.58, 0.53, 0.63),
        "kl": estimate(0.4, 0.3, 0.5),
        "reward_desirable": 0.21,
        "reward_undesirable": -0.17,
    } | changes


def metrics(similarity: float = 0.02, **changes: Any) -> dict[str, Any]:
    return {
        "similarity": contrast(0.3, 0.3 + similarity, 0.02),
        "distinct_k": contrast(3.0, 2.9, 0.2),
        "ead": contrast(0.6, 0.59, 0.02),
        "mean_words": contrast(18.0, 19.0, 1.0),
        "loop_rate": contrast(0.0, 0.0, 0.001),
        "truncated_share": contrast(0.02, 0.02, 0.01),
    } | changes


def result(step: int = 10, categories: tuple[str, ...] = ("greeting", "weather"), **changes: Any) -> dict[str, Any]:
    """EvaluationResult as a dict."""
    diversity = {
        "num_categories": len(categories),
        "num_prompts": 2 * len(categories),
        "samples_per_prompt": 2,
        "overall": metrics(),
        "categories": [
            {"category": name, "num_prompts": 2, "metrics": metrics(0.01 * (index + 1))}
            for index, name in enumerate(categories)
        ],
    }
    return {
        "step": step,
        "heldout": heldout(),
        "diversity": diversity,
        "samples_path": f"evaluations/step-{step:06d}/samples.jsonl",
        "seconds": 1.5,
    } | changes


def write_samples(folder: Path, data: dict[str, Any], text: str = "**{arm}** says {index}") -> int:
    """Two prompts a category, two samples an arm; returns the number of lines."""
    path = folder / data["samples_path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "category": item["category"],
            "prompt": [{"role": "user", "content": f"{item['category']} <b>{prompt}</b>?"}],
            "arm": arm,
            "index": index,
            "text": text.format(arm=arm, index=index),
            "truncated": index == 1,
        }
        for item in data["diversity"]["categories"]
        for prompt in range(2)
        for arm in ("reference", "policy")
        for index in range(2)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return len(lines)


def run_in(factory: Any, project: Project, **changes: Any) -> Run:
    number = next(_numbers)
    snapshot = factory.add(
        Snapshot(
            project_id=project.id,
            content_hash=f"{number:064x}",
            rule={},
            path=f"snapshots/{number}",
            counts={
                split: {"desirable": 60, "undesirable": 40, "prompts": 90, "roots": 90}
                for split in ("train", "dev", "test")
            },
            size_bytes=1,
        )
    )
    values = {
        "name": f"kto-{number:04d}",
        "launch_key": f"key-{number}",
        "objective": "kto",
        "config": {
            "base_model": "/srv/models/tiny-base",
            "beta": 0.1,
            "objective": "kto",
            "evaluation": {"interval_steps": 10},
        },
        "status": "succeeded",
        "step": 30,
        "total_steps": 30,
    } | changes
    run: Run = factory.add(Run(project_id=project.id, snapshot_id=snapshot.id, **values))
    return run


def checkpoint_of(factory: Any, run: Run, step: int = 10, path: str = "") -> Checkpoint:
    checkpoint: Checkpoint = factory.add(
        Checkpoint(
            project_id=run.project_id,
            run_id=run.id,
            attempt=1,
            step=step,
            path=path or f"runs/{run.id}/attempts/1/checkpoints/step-{step:06d}",
            manifest_sha256="ab" * 32,
            size_bytes=1_000,
        )
    )
    directory = artifact_path(checkpoint.path)
    if not path:  # numbers of runs begin anew after a test that empties the tables; its files stay
        shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    return checkpoint


def evaluation_in(factory: Any, run: Run, checkpoint: Checkpoint, folder: Path, **changes: Any) -> Evaluation:
    from app.evaluations.service import record_screen

    data = result(checkpoint.step, **changes)
    if data["diversity"]:
        write_samples(folder, data)
    return record_screen(factory.db, run=run, checkpoint=checkpoint, data=data, attempt_dir=folder)


def alarm_in(factory: Any, evaluation: Evaluation, subject: str = "weather", level: str = "alarm") -> EvaluationAlarm:
    """A category's alarm as a checkpoint raised it."""
    figures = {"reference": 0.2, "policy": 0.3, "change": 0.1, "low": None, "high": None, "q": 0.001}
    text = f"Samples of {subject} are more alike than the reference's."
    data = {"kind": "category", "level": level, "metric": "similarity", "subject": subject, "text": text, **figures}
    alarm: EvaluationAlarm = factory.add(
        EvaluationAlarm(
            project_id=evaluation.project_id,
            run_id=evaluation.run_id,
            evaluation_id=evaluation.id,
            step=evaluation.step,
            kind="category",
            level=level,
            subject=subject,
            data=data,
        )
    )
    return alarm
