"""``python -m worker.alignment estimate spec.json``: what a run will need on this machine, from its tokenised rows.

Only config, tokenizer and snapshot are read, and nothing is written. Memory is good to 15 %; time is a range that says
the order of magnitude. ``--probe`` loads the model and measures both in a few steps; ``train`` measures a step where memory
is close.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

from worker.alignment.checks import Checked, check_spec
from worker.alignment.config import TrainSpec
from worker.alignment.errors import ModelError, SpecError
from worker.alignment.estimate import estimate_run
from worker.alignment.footprint import Workload
from worker.alignment.memory_plan import DoesNotFitError, memory_plan
from worker.alignment.planning import memory_limit, workload_of
from worker.alignment.policy import resolve_device
from worker.alignment.schedule import total_steps

NOT_MEASURED: dict[str, Any] = {"measured_peak_bytes": None, "measured_step_seconds": None}


def estimate_spec(spec: TrainSpec, *, measure: bool = False) -> int:
    """Print the estimate as one JSON object: bytes, seconds, and ``plan``, a sentence.

    ``measure``: with ``measured_peak_bytes`` and ``measured_step_seconds`` of the longest step, and the run's seconds from
    steps that were run; both are null where the model could not be loaded, or the step does not fit.

    Returns 0 where a step fits, and 1 where it does not and ``plan`` says what would. Raises SpecError for a spec that
    ``train`` would refuse, too, and for a kind of model whose memory is not known and not measured.
    """
    checked = check_spec(spec)
    config, device, rows = spec.config, resolve_device(), checked.train.rows
    limit = memory_limit(config, device)
    work = workload_of(config, checked.model_config, rows, checked.units.units, device)
    figures: dict[str, Any] = {
        "num_rows": work.data.num_rows,
        "num_tokens": work.data.num_tokens,
        "limit_bytes": limit,
        "fits": True,
    }
    try:
        figures |= _predicted(work, limit)
    except ValueError as error:
        if not measure:
            text = f"base_model: its memory cannot be worked out ({error}); measure it with --probe"
            raise SpecError(text) from error
    figures["total_steps"] = total_steps(config, len(checked.units.units))
    if measure:
        figures |= _measured(spec, checked) if figures["fits"] else NOT_MEASURED
    print(json.dumps(figures, indent=1))
    return 0 if figures["fits"] else 1


def _predicted(work: Workload, limit_bytes: int) -> dict[str, Any]:
    """Raises ValueError on an unknown kind of model."""
    cores = work.config.num_threads or os.cpu_count() or 1
    found = estimate_run(
        work.model_config, work.config, work.data, device=work.device, num_cores=cores, limit_bytes=limit_bytes
    )
    figures = asdict(found) | {"total_bytes": found.total_bytes}
    try:
        return figures | {"fits": True, "plan": memory_plan(work, limit_bytes).reason}
    except DoesNotFitError as error:
        return figures | {"fits": False, "plan": str(error)}


def _measured(spec: TrainSpec, checked: Checked) -> dict[str, Any]:
    from worker.alignment.trial import try_steps

    try:
        trial = try_steps(spec, checked)
    except (DoesNotFitError, ModelError) as error:
        return NOT_MEASURED | {"fits": False, "plan": str(error)}
    return {
        "measured_peak_bytes": trial.peak_bytes,
        "measured_step_seconds": trial.step_seconds,
        "seconds_low": trial.seconds[0],
        "seconds_high": trial.seconds[1],
        "num_recomputed_layers": trial.plan.num_recomputed_layers,
        "fits": trial.peak_bytes <= trial.plan.limit_bytes,
        "plan": trial.plan.reason,
    }
