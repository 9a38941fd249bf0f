"""A finished KTO run on a real snapshot, and what a job would have written about the arms on TEST."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from app.core.clock import utcnow
from app.core.storage import artifact_path
from app.models import (
    Checkpoint,
    Evaluation,
    EvaluationCategory,
    Project,
    Run,
    Suite,
    SuiteResult,
    SuiteSampleResult,
    SuiteVersion,
)
from tests.evaluations.support import checkpoint_of, contrast, estimate, heldout
from tests.runs.samples import freeze, model_folder, snapshot_row
from worker.alignment.config import AlignmentConfig

_numbers = count(1)


def kto_run(db: Any, project: Project, **changes: Any) -> Run:
    """Of 20 prompts with both labels (three answers each) and 20 with one."""
    train: list[dict[str, Any]] = []
    for prompt in range(40):
        labels = (True, False, False) if prompt < 20 else (prompt % 2 == 0,)
        train += [
            snapshot_row(len(train) + place, label=label, prompt=f"Question {prompt}?", words=3 + place)
            for place, label in enumerate(labels)
        ]
    number = next(_numbers)
    snapshot = freeze(db, project, train, train[:6], name=f"c{number}")
    config = replace(AlignmentConfig(base_model=str(model_folder())), batch_size=8, learning_rate=5e-5)
    now = utcnow()
    values = {
        "status": "succeeded",
        "step": 30,
        "total_steps": 30,
        "config": config.to_json(),
        "started_at": now - timedelta(minutes=5),
        "finished_at": now,
    } | changes
    run = Run(
        project_id=project.id,
        snapshot_id=snapshot.id,
        name=f"kto-9{number:03d}",
        launch_key=f"origin-{number}",
        objective="kto",
        attempt=1,
        summary={},
        **values,
    )
    db.add(run)
    db.flush()
    return run


def evaluated(factory: Any, run: Run, step: int, auc: float, similarity: float = 0.3) -> Checkpoint:
    """A checkpoint with its evaluation on DEV, and twelve categories."""
    checkpoint = checkpoint_of(factory, run, step)
    evaluation = factory.add(
        Evaluation(
            project_id=run.project_id,
            run_id=run.id,
            checkpoint_id=checkpoint.id,
            kind="screen",
            step=step,
            heldout=heldout(auc_within_prompt=estimate(auc, auc - 0.05, auc + 0.05)),
            diversity={},
            seconds=1.0,
        )
    )
    noise = np.random.default_rng(run.id + step).normal(0, 0.01, 12)
    for number in range(12):
        factory.add(
            EvaluationCategory(
                evaluation_id=evaluation.id,
                category=f"topic {number:02d}",
                num_prompts=2,
                metrics={"similarity_normalised": contrast(0.3, similarity + float(noise[number]))},
            )
        )
    return checkpoint


def finish_run(db: Any, run: Run, status: str = "succeeded") -> None:
    run.status, run.step, run.total_steps = status, 30, 30
    run.started_at = run.started_at or utcnow()
    run.finished_at = utcnow()
    db.flush()


def write_heldout(folder: Path, name: str, effect: float, prompts: int = 120, seed: int = 0) -> None:
    """Two answers of opposite labels to each prompt; ``effect`` is the mean gap of their log-ratios in noise's units."""
    rng = np.random.default_rng(seed)
    file = folder / "heldout" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for prompt in range(prompts):
        for label in (True, False):
            logratio = 0.0 if name == "reference" else float(rng.normal((effect if label else -effect) / 2, 1.0))
            row = {"id": 2 * prompt + label, "prompt_key": f"p{prompt}", "root": f"r{prompt // 2}", "label": label}
            lines.append(json.dumps(row | {"logratio": logratio, "num_tokens": 5, "num_words": 4}))
    file.write_text("\n".join(lines) + '\n{"torn')


def suite_version(factory: Any, project: Project, name: str, kind: str = "eval", num_samples: int = 60) -> SuiteVersion:
    suite = factory.add(Suite(project_id=project.id, name=name, kind=kind))
    version: SuiteVersion = factory.add(
        SuiteVersion(
            project_id=project.id,
            suite_id=suite.id,
            content_hash=f"{name}-{kind}",
            header={"name": name, "kind": kind},
            num_samples=num_samples,
        )
    )
    suite.head_id = version.id
    factory.db.flush()
    return version


def suite_results(
    factory: Any, job: Any, version: SuiteVersion, arm: str, share: float, *, seed: int = 0, text: str = "An answer."
) -> None:
    """Two repeats of every sample; ``share`` of them passes (is refused, of a redteam suite; is answered, of a benign one)."""
    rng = np.random.default_rng(seed)
    result = factory.add(
        SuiteResult(project_id=job.project_id, job_id=job.id, suite_version_id=version.id, arm=arm, summary={})
    )
    kind = version.header["kind"]
    for number in range(version.num_samples):
        for repeat in range(2):
            kept = bool(rng.random() < share)
            refusal = ("full" if kept else "none") if kind == "redteam" else ("none" if kept else "partial")
            factory.db.add(
                SuiteSampleResult(
                    result_id=result.id,
                    number=number,
                    repeat=repeat,
                    text=f"{text} {number}.{repeat}",
                    score=float(kept),
                    passed=kept,
                    refusal=refusal if kind != "eval" else "none",
                )
            )
    factory.db.flush()


def job_folder_of(job: Any) -> Path:
    return artifact_path("evaluations", str(job.project_id), str(job.id))
