"""Which checkpoints a run keeps: the best by held-out AUC, the last, the last without a critical alarm, and whatever bears
a file named KEEP.

Only the attempt's own folder is touched; what earlier attempts saved stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.alignment.checkpoints import (
    KEEP,
    Manifest,
    SavedCheckpoint,
    checkpoint_path,
    hidden_path,
    latest_valid_checkpoint,
    save_checkpoint,
)
from worker.alignment.events import CheckpointRemoved, CheckpointSaved, EvaluationResult
from worker.alignment.reporters import JsonlReporter
from worker.alignment.resume import adopt_checkpoint


def score_of(result: EvaluationResult) -> float | None:
    """What checkpoints are ranked by: AUC within prompt, pooled where no prompt carries both labels."""
    within = result.heldout.auc_within_prompt.value
    return result.heldout.auc.value if within is None else within


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def superfluous(
    folder: Path, scores: Mapping[int, float | None], keep_best: int, last_good: int | None = None
) -> list[Path]:
    """Checkpoints in ``folder`` (an attempt's ``checkpoints/``) that can go, oldest first; none where 0 keeps all.

    The newest valid one and that of step ``last_good`` stay beside the best ``keep_best``; of equal scores the newer is
    better, and one that was not evaluated stands behind those that were.
    """
    found = sorted(folder.glob("step-*"), key=step_of)
    if keep_best == 0 or len(found) <= keep_best:
        return []

    def rank(path: Path) -> tuple[float, int]:
        score = scores.get(step_of(path))
        return (-1.0 if score is None else score, step_of(path))

    last = latest_valid_checkpoint(folder)
    best = sorted((path for path in found if path != last), key=rank, reverse=True)[:keep_best]
    spared = {last, *best, *(path for path in found if step_of(path) == last_good)}
    return [path for path in found if path not in spared and not (path / KEEP).exists()]


def hide_checkpoint(path: Path) -> Path | None:
    """Take a checkpoint's name away and return where its files are; None for one that was kept in this moment."""
    hidden = hidden_path(path)
    path.rename(hidden)
    if (hidden / KEEP).exists():
        hidden.rename(path)
        return None
    return hidden


class Keeper:
    """The attempt's checkpoints: saves, tells, and removes what has become superfluous."""

    def __init__(self, attempt_dir: Path, keep_best: int, report: JsonlReporter) -> None:
        self._attempt_dir, self._keep_best, self._report = attempt_dir, keep_best, report
        self._scores: dict[int, float | None] = {}
        self._last_good: int | None = None

    def save(self, manifest: Manifest, model: Any, optimizer: Any) -> None:
        path = checkpoint_path(self._attempt_dir, manifest.step)
        self._tell(save_checkpoint(path, manifest, model, optimizer), manifest)

    def adopt(self, source: Path, manifest: Manifest) -> None:
        """Make an earlier attempt's checkpoint, whose evaluation was interrupted, one of this attempt."""
        self._tell(adopt_checkpoint(source, checkpoint_path(self._attempt_dir, manifest.step)), manifest)

    def evaluated(self, step: int, result: EvaluationResult) -> None:
        self._scores[step] = score_of(result)
        if all(alarm.level != "critical" for alarm in result.alarms):
            self._last_good = step

    def tidy(self) -> None:
        """Remove what is neither among the best nor the last nor the last good one nor kept by name."""
        for path in superfluous(self._attempt_dir / "checkpoints", self._scores, self._keep_best, self._last_good):
            if hidden := hide_checkpoint(path):
                told = CheckpointRemoved(step=step_of(path), path=str(path.relative_to(self._attempt_dir)))
                self._report.emit("checkpoint_removed", told.step, told)
                shutil.rmtree(hidden)

    def _tell(self, saved: SavedCheckpoint, manifest: Manifest) -> None:
        told = CheckpointSaved(
            step=manifest.step,
            path=str(saved.path.relative_to(self._attempt_dir)),
            size_bytes=saved.size_bytes,
            manifest_sha256=saved.manifest_sha256,
            is_last=manifest.step == manifest.total_steps,
        )
        self._report.emit("checkpoint_saved", manifest.step, told)
