"""How much a run recomputes so that its steps fit, and what to say where memory ran out all the same.

The plan is made from numbers before the weights are loaded. Where it is close, one step with the longest units is run
before the first: the measured peak, not the predicted one, then decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from worker.alignment.config import AlignmentConfig
from worker.alignment.dataset import Row
from worker.alignment.distributed import ALONE, World
from worker.alignment.errors import is_out_of_memory
from worker.alignment.footprint import Workload
from worker.alignment.memory import StepCost, measure_step, recompute_layers, resident_bytes
from worker.alignment.memory_plan import DoesNotFitError, memory_plan, out_of_memory_advice
from worker.alignment.packing import pack_pairs
from worker.alignment.policy import Policy
from worker.alignment.shapes import DataSize

PROBED_SHARE = 0.5
"""A step that is predicted to need more than this share of the memory is tried before the first."""
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(slots=True)
class RunPlan:
    num_recomputed_layers: int
    """The first so many decoder layers."""
    reason: str
    """One sentence for the user; empty where there was nothing to decide."""
    limit_bytes: int
    predicted_bytes: int
    is_open: bool
    """Whether a measured step may change it: not where the settings or a checkpoint say it."""
    work: Workload | None = field(repr=False)
    """None for a kind of model whose memory is not known."""

    def words(self, num_layers: int) -> str:
        """What backward recomputes, of so many layers."""
        if not self.num_recomputed_layers:
            return "none"
        if self.num_recomputed_layers >= num_layers:
            return "every layer recomputed"
        return f"the first {self.num_recomputed_layers} of {num_layers} layers recomputed"

    def advice(self) -> str:
        """The end of a sentence that says that memory ran out."""
        if self.work is None:
            return "lower tokens_per_microbatch, max_length or lora.r"
        return out_of_memory_advice(self.work, self.limit_bytes, num_recomputed_layers=self.num_recomputed_layers)


def plan_run(
    config: AlignmentConfig,
    model_config: Any,
    rows: Sequence[Row],
    units: Sequence[tuple[int, ...]],
    device: torch.device,
    *,
    pinned_layers: int | None = None,
    world: World = ALONE,
) -> RunPlan:
    """From the transformers config and the training rows; ``pinned_layers`` is what a checkpoint's run recomputed.

    With several processes the one with least memory decides for all. Raises DoesNotFitError where no recomputation makes a
    step fit.
    """
    limit = min(world.gather(memory_limit(config, device))) // (world.size if device.type == "cpu" else 1)
    work = workload_of(config, model_config, rows, units, device, world=world)
    if pinned_layers is not None:
        return RunPlan(pinned_layers, "", limit, 0, is_open=False, work=work)
    try:
        plan = memory_plan(work, limit)
    except ValueError:
        layers = {"full": _num_layers(model_config), "selective": max(1, _num_layers(model_config) - 1)}
        return RunPlan(layers.get(config.checkpointing, 0), "", limit, 0, is_open=False, work=None)
    return RunPlan(
        plan.num_recomputed_layers,
        plan.reason,
        limit,
        plan.parts.total_bytes,
        is_open=config.checkpointing == "auto",
        work=work,
    )


def workload_of(
    config: AlignmentConfig,
    model_config: Any,
    rows: Sequence[Row],
    units: Sequence[tuple[int, ...]],
    device: torch.device,
    *,
    world: World = ALONE,
) -> Workload:
    """What a step's memory depends on. The heaviest step is packed to see its tokens: what its rows share counts once.

    On a CPU the libraries' share is what this process holds now, before the weights are loaded.
    """
    share = -(-config.batch_size // world.size)
    heaviest = [rows[index].pair for unit in heaviest_units(rows, units, share) for index in units[unit]]
    lengths = [len(pair.prompt_ids) + len(pair.completion_ids) for pair in heaviest]
    padded = config.attention == "eager"
    tokens = max(lengths) * len(lengths) if padded else pack_pairs(heaviest, share=config.share_prefixes).num_tokens
    return Workload(
        model_config=model_config.to_dict(),
        config=config,
        data=DataSize.from_lengths(
            [len(row.pair.prompt_ids) for row in rows],
            [len(row.pair.completion_ids) for row in rows],
            num_step_tokens=tokens,
        ),
        device="cuda" if device.type == "cuda" else "cpu",
        overhead_bytes=max(world.gather(resident_bytes())) if device.type == "cpu" else None,
        shards=world.size if config.parallel == "fsdp" else 1,
    )


def heaviest_units(rows: Sequence[Row], units: Sequence[tuple[int, ...]], batch_size: int) -> list[int]:
    """The longest units, as many as a step has: no step needs more memory."""
    lengths = [sum(rows[index].num_tokens for index in unit) for unit in units]
    return sorted(range(len(units)), key=lambda place: (-lengths[place], place))[:batch_size]


def refine(plan: RunPlan, policy: Policy, step: Callable[[], object], *, always: bool = False) -> StepCost | None:
    """Recompute as planned; where it is close, run ``step`` (the heaviest) and recompute more until it fits.

    Returns what was measured, with the optimizer's moments, which are not there yet; None where nothing was. ``always``
    measures whatever the plan says. Raises DoesNotFitError.
    """
    if plan.num_recomputed_layers:
        recompute_layers(policy.lm, plan.num_recomputed_layers)
    is_open = plan.is_open and plan.work is not None
    if not always and not (is_open and plan.predicted_bytes > PROBED_SHARE * plan.limit_bytes):
        return None
    moments = 2 * 4 * sum(parameter.numel() for parameter in policy.parameters())
    while True:
        try:
            cost = measure_step(policy.device, policy.parameters(), step)
            peak = max(policy.world.gather(cost.peak_bytes)) + moments
            if peak <= plan.limit_bytes or not is_open:
                return replace(cost, peak_bytes=peak)
            tried = f"{peak / 2**30:.1f} GiB were needed"
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if policy.world.size > 1:  # the others may be inside a collective: there is no second try together
                raise DoesNotFitError(f"Memory ran out in the longest step: {plan.advice()}.") from error
            tried = "memory ran out"
        if plan.work is None or not is_open or plan.num_recomputed_layers >= _num_layers(policy.lm.config):
            words = "With every layer recomputed" if is_open else "In the longest step"
            raise DoesNotFitError(f"{words} {tried}: {plan.advice()}.")
        more = memory_plan(plan.work, plan.limit_bytes, at_least=plan.num_recomputed_layers + 1)
        plan.num_recomputed_layers = more.num_recomputed_layers
        plan.reason = f"{more.reason} ({tried} with fewer.)"
        recompute_layers(policy.lm, plan.num_recomputed_layers)


def memory_limit(config: AlignmentConfig, device: torch.device) -> int:
    """Bytes that this process may use: as set, else what the device has left beside what is used already."""
    if config.memory_limit_gib:
        return round(config.memory_limit_gib * 2**30)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    limits = [_available_bytes() + resident_bytes()]
    for path in CGROUPS:
        with suppress(OSError, ValueError):  # no such file, or the word max
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits)


def _available_bytes() -> int:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62  # not Linux: nothing is known, nothing is refused


def _num_layers(model_config: Any) -> int:
    return int(model_config.get_text_config().num_hidden_layers)
