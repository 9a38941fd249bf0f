"""Memory and time of a run before it starts, from the model's config.json and the data's token counts: free of torch.

Time is floating-point work over a range of rates and says the order of magnitude; a measured step, where there is one,
replaces it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from worker.alignment.config import AlignmentConfig
from worker.alignment.footprint import MemoryParts, Workload, fitting_layers, memory_parts, microbatch_tokens
from worker.alignment.shapes import DataSize, DeviceKind, ModelSize, Shape, model_size

__all__ = ["DataSize", "DeviceKind", "MemoryParts", "ModelSize", "RunEstimate", "estimate_run", "model_size"]

RATES: dict[DeviceKind, tuple[float, float]] = {"cpu": (8e9, 50e9), "cuda": (40e12, 400e12)}
"""Floating-point operations per second, slow to fast: per core in float32, per GPU in bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEstimate(MemoryParts):
    num_recomputed_layers: int
    seconds_low: float
    seconds_high: float
    """Training and reference log-probs, without evaluations."""
    total_steps: int
    model: ModelSize


def estimate_run(
    model_config: dict[str, Any],
    config: AlignmentConfig,
    data: DataSize,
    *,
    device: DeviceKind,
    num_cores: int = 1,
    limit_bytes: int | None = None,
) -> RunEstimate:
    """Peak memory by parts and a range of seconds, for one device. Raises ValueError on an unknown kind of model.

    Layers are recomputed as the config says; with ``auto`` as many as ``limit_bytes`` (or the config's own limit) asks.
    """
    work = Workload(model_config=model_config, config=config, data=data, device=device)
    size = model_size(model_config, rank=config.lora.r)
    layers = fitting_layers(work, round(config.memory_limit_gib * 2**30) or limit_bytes)
    layers = size.num_layers if layers is None else layers
    parts = memory_parts(work, layers)
    steps = total_steps(config, data)
    operations = _flops(model_config, config, data, steps=steps, recomputed=layers / size.num_layers)
    low, high = RATES[device]
    scale = max(1, num_cores) if device == "cpu" else 1
    return RunEstimate(
        **asdict(parts),
        num_recomputed_layers=layers,
        seconds_low=operations / (high * scale),
        seconds_high=operations / (low * scale),
        total_steps=steps,
        model=size,
    )


def total_steps(config: AlignmentConfig, data: DataSize) -> int:
    rows = config.batch_size * (2 if config.objective == "dpo" else 1)
    return config.max_steps or max(1, math.ceil(config.num_epochs * math.ceil(data.num_rows / rows)))


def _flops(
    model_config: dict[str, Any], config: AlignmentConfig, data: DataSize, *, steps: int, recomputed: float
) -> float:
    """Policy forward, its input gradient and the KL forward each step; the reference's forwards once per row.

    The KL pass computes completions alone where it shares the prompts' keys and values.
    """
    shape, size = Shape.read(model_config), model_size(model_config, rank=config.lora.r)
    rows = max(1, data.num_rows)
    tokens, completions = data.num_tokens / rows, data.num_completion_tokens / rows
    body, head = 2 * size.num_active_parameters, 2 * shape.hidden * shape.vocab
    microbatch, step = microbatch_tokens(config, data)
    has_kl = config.objective == "kto"
    kl_tokens = (completions if microbatch >= step or config.kl_scope == "microbatch" else tokens) if has_kl else 0.0
    per_row = body * ((2 + recomputed) * tokens + kl_tokens) + head * completions * (3 if has_kl else 2)
    reference = (2 if has_kl else 1) * (body * tokens + head * completions) * rows
    units = min(config.batch_size * (2 if config.objective == "dpo" else 1), rows)
    return steps * units * per_row + (0 if config.objective == "sft" else reference)
