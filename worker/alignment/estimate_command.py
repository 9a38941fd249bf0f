"""``python -m worker.alignment estimate spec.json``: what a run will need on this machine, from its tokenised rows.

Only config, tokenizer and snapshot are read, and nothing is written. Memory is good to 15 %; time is a range that says
the order of magnitude. ``train`` measures a step where memory is close.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

from worker.alignment.checks import check_spec
from worker.alignment.config import TrainSpec
from worker.alignment.errors import SpecError
from worker.alignment.estimate import estimate_run
from worker.alignment.footprint import Workload
from worker.alignment.memory_plan import DoesNotFitError, memory_plan
from worker.alignment.planning import memory_limit
from worker.alignment.policy import resolve_device
from worker.alignment.schedule import total_steps
from worker.alignment.shapes import DataSize


def estimate_spec(spec: TrainSpec) -> int:
    """Print the estimate as one JSON object: bytes, seconds, and ``plan``, a sentence.

    Returns 0 where a step fits, and 1 where it does not and ``plan`` says what would. Raises SpecError for a spec that
    ``train`` would refuse, too, and for a kind of model whose memory is not known.
    """
    checked = check_spec(spec)
    config, device, rows = spec.config, resolve_device(), checked.train.rows
    limit = memory_limit(config, device)
    work = Workload(
        model_config=checked.model_config.to_dict(),
        config=config,
        data=DataSize.from_lengths(
            [len(row.pair.prompt_ids) for row in rows],
            [len(row.pair.completion_ids) for row in rows],
            rows_per_step=config.batch_size * (2 if config.objective == "dpo" else 1),
        ),
        device="cuda" if device.type == "cuda" else "cpu",
    )
    cores = config.num_threads or os.cpu_count() or 1
    try:
        found = estimate_run(
            work.model_config, config, work.data, device=work.device, num_cores=cores, limit_bytes=limit
        )
    except ValueError as error:
        raise SpecError(f"base_model: its memory cannot be worked out ({error}); train it to see") from error
    try:
        fits, plan = True, memory_plan(work, limit).reason
    except DoesNotFitError as error:
        fits, plan = False, str(error)
    figures: dict[str, Any] = asdict(found) | {
        "total_steps": total_steps(config, len(checked.units.units)),
        "num_rows": work.data.num_rows,
        "num_tokens": work.data.num_tokens,
        "total_bytes": found.total_bytes,
        "limit_bytes": limit,
        "fits": fits,
        "plan": plan,
    }
    print(json.dumps(figures, indent=1))
    return 0 if fits else 1
