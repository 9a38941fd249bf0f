"""A few steps of a run, tried without running it: what they really need, and how long they take."""

from __future__ import annotations

from dataclasses import dataclass

from worker.alignment.checks import Checked
from worker.alignment.config import TrainSpec
from worker.alignment.data import SplitToScore, without_reference
from worker.alignment.memory import measure_step
from worker.alignment.planning import RunPlan, heaviest_units, plan_run, refine
from worker.alignment.policy import load_policy, resolve_device
from worker.alignment.prepare import probe_rows
from worker.alignment.probe import probe
from worker.alignment.resume import pin_threads
from worker.alignment.schedule import total_steps
from worker.alignment.step import StepBatch, StepSettings, backward_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    plan: RunPlan
    peak_bytes: int
    """Of the longest step, the optimizer's moments included."""
    step_seconds: float
    """Of the longest step."""
    seconds: tuple[float, float]
    """Of the whole run without evaluations, least and most, nothing being cached."""


def try_steps(spec: TrainSpec, checked: Checked) -> Trial:
    """Load the model and run the longest step, then one of middling rows. Writes nothing.

    The run's seconds are its tokens times the seconds per token of the one step and of the other, and the reference's
    tokens times those of a pass over the middling rows. Raises DoesNotFitError and ModelError.
    """
    config, rows, units = spec.config, checked.train.rows, checked.units.units
    pin_threads(config, None)
    plan = plan_run(config, checked.model_config, rows, units, resolve_device())
    policy = load_policy(spec.model_path, config)
    probe(policy, [row.pair for row in probe_rows(rows)])
    settings = StepSettings.of(config)
    needs_kl, needs_reference = settings.loss.needs_kl, settings.loss.needs_reference
    split = without_reference(SplitToScore(rows=rows, units=units, kl=needs_kl), max_length=config.max_length)
    by_length = heaviest_units(rows, units, len(units))
    size = min(config.batch_size, len(units))
    longest = split.batch(by_length[:size])
    middling = split.batch(by_length[(len(units) - size) // 2 :][:size])
    cost = refine(plan, policy, lambda: backward_step(policy, longest, settings), always=True)
    peak = 0 if cost is None else cost.peak_bytes

    def seconds_of(batch: StepBatch) -> float:
        return measure_step(policy.device, policy.parameters(), lambda: backward_step(policy, batch, settings)).seconds

    def score() -> None:
        with policy.as_reference():
            policy.score([*middling.pairs, *middling.kl_pairs], token_budget=config.tokens_per_microbatch)

    step_seconds = seconds_of(longest)
    rates = (step_seconds / _tokens(longest), seconds_of(middling) / _tokens(middling))
    mean = sum(rows[index].num_tokens for unit in units for index in unit) / len(units)
    trained = total_steps(config, len(units)) * size * mean
    reference = 0.0
    if needs_reference:
        cost_of_score = measure_step(policy.device, policy.parameters(), score)
        reference = cost_of_score.seconds / _tokens(middling) * sum(row.num_tokens for row in rows)
    return Trial(
        plan=plan,
        peak_bytes=peak,
        step_seconds=step_seconds,
        seconds=(min(rates) * trained + reference, max(rates) * trained + reference),
    )


def _tokens(batch: StepBatch) -> int:
    """Of its rows; their mismatched pairs go along with them."""
    return sum(len(ids) for pair in batch.pairs for ids in pair)
