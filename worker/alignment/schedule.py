"""Learning rate as a closed form of the step: nothing to save, nothing to drift on resume."""

from __future__ import annotations

import math

from worker.alignment.batching import num_steps_per_epoch
from worker.alignment.config import AlignmentConfig


def total_steps(config: AlignmentConfig, num_rows: int) -> int:
    """Optimizer steps of the run: ``max_steps``, else what ``num_epochs`` needs, at least 1."""
    if config.max_steps:
        return config.max_steps
    return max(1, math.ceil(config.num_epochs * num_steps_per_epoch(num_rows, config.batch_size) - 1e-9))


def learning_rate(config: AlignmentConfig, step: int, total: int) -> float:
    """Rate of the update after ``step`` finished ones (0-based): linear warm-up, then constant, linear or cosine to 0."""
    warmup = math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    match config.lr_schedule:
        case "constant":
            return config.learning_rate
        case "linear":
            return config.learning_rate * (1 - share)
        case "cosine":
            return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
