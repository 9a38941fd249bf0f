"""The training loop, read from top to bottom: prepare, step, save, evaluate, resume."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from worker.alignment.checkpoints import Manifest, restore_checkpoint, restore_rng, rng_state
from worker.alignment.checks import Checked, check_spec
from worker.alignment.config import AlignmentConfig, TrainSpec
from worker.alignment.data import heldout_rows
from worker.alignment.distributed import ALONE, World
from worker.alignment.errors import DivergedError, StopRequest, is_out_of_memory
from worker.alignment.evaluation.looks import alarms_in
from worker.alignment.events import Alarm, EvaluationResult, Progress, RunFinished, RunStarted
from worker.alignment.memory_plan import DoesNotFitError
from worker.alignment.policy import Policy
from worker.alignment.prepare import Phase, Prepared, prepare
from worker.alignment.reporters import JsonlReporter
from worker.alignment.resume import check_pins, told_evaluation
from worker.alignment.retention import Keeper
from worker.alignment.sampler import Sampler
from worker.alignment.schedule import learning_rate, total_steps
from worker.alignment.sharding import on_main
from worker.alignment.step import StepBatch, StepResult, StepSettings, backward_step, step_metrics
from worker.alignment.watching import EvaluateFn, Watch

if TYPE_CHECKING:
    from worker.alignment.evaluation.screen import HeldoutRows

MAX_BAD_STEPS = 3
"""So many steps in a row without a finite gradient end the run as diverged."""


def train(
    spec: TrainSpec,
    reporter: JsonlReporter,
    *,
    evaluate: EvaluateFn | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    checked: Checked | None = None,
    world: World = ALONE,
) -> RunFinished:
    """Run the spec to its end, or to the step at which ``should_stop`` turned true (a checkpoint is saved first).

    Every checkpoint that is due (each ``evaluation.interval_steps`` and the last) is evaluated by ``evaluate``, by
    default the screen evaluation. Raises SpecError where the spec cannot run (``checked``: that was asked already) and
    a TrainingError with a sentence for the user; the caller reports the end. Every process of ``world`` calls this;
    rank 0 alone writes files, and stops when any was asked to.
    """
    if evaluate is None:
        from worker.alignment.evaluation.screen import screen

        evaluate = screen
    return Trainer(spec, checked or check_spec(spec), reporter, evaluate, should_stop, world).run()


class Trainer:
    """State of one attempt."""

    def __init__(
        self,
        spec: TrainSpec,
        checked: Checked,
        reporter: JsonlReporter,
        evaluate: EvaluateFn,
        should_stop: Callable[[], bool],
        world: World = ALONE,
    ) -> None:
        self.spec = spec
        self.checked = checked
        self.config: AlignmentConfig = spec.config
        self.report = reporter
        self.keeper = Keeper(Path(spec.attempt_dir), spec.config.keep_best, reporter)
        self.watch = Watch(spec, checked, evaluate)
        self.should_stop = should_stop
        self.world = world
        self.prepared: Prepared
        self.policy: Policy
        self.settings: StepSettings
        self.sampler: Sampler
        self.optimizer: torch.optim.AdamW
        self.step = 0
        self.total = total_steps(self.config, len(checked.units.units))
        self.saved_step = -1
        self.clamped_steps = 0
        self.bad_steps = 0
        self.paused = ""

    def run(self) -> RunFinished:
        try:
            self._start()
            while self.step < self.total and not self.paused:
                self._train_step()
                if self._is_due(self.step):
                    self._save()
                    self._evaluate()
                    if self.world.is_main:
                        self.keeper.tidy()
                if self.world.any(self.should_stop()) and self.step < self.total and not self.paused:
                    raise StopRequest
        except StopRequest:
            if self.step > 0 and self.step != self.saved_step:
                self._save()
            return RunFinished(status="stopped", message=f"Stopped after step {self.step}.")
        if self.paused:
            return RunFinished(status="paused", message=self.paused)
        return RunFinished(status="succeeded", message=f"Finished {self.total} steps.")

    # The start -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.prepared = prepare(self.spec, self.checked, self.report, self._progress, self.world)
        self.policy = self.prepared.policy
        self.settings = self.prepared.settings
        self.sampler = Sampler(
            self.checked.train.rows, self.checked.units.units, self.config, packed=self.policy.path == "packed"
        )
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(),
            lr=self.config.learning_rate,
            betas=(self.config.adam_beta1, self.config.adam_beta2),
            eps=self.config.adam_epsilon,
            weight_decay=self.config.weight_decay,
        )
        torch.manual_seed(self.config.seed)
        manifest = self.checked.manifest
        if manifest is not None:
            self._resume(manifest)
        self._tell_start()
        if manifest is not None:
            self._finish_interrupted_checkpoint(Path(str(self.spec.resume_from)), manifest)

    def _resume(self, manifest: Manifest) -> None:
        check_pins(manifest.pins, self.prepared.pins)
        restore_checkpoint(Path(str(self.spec.resume_from)), self.policy.model, self.optimizer)
        self.step = self.saved_step = manifest.step
        self.clamped_steps = int(manifest.progress["clamped_steps"])
        self.bad_steps = int(manifest.progress["bad_steps"])

    def _finish_interrupted_checkpoint(self, source: Path, manifest: Manifest) -> None:
        """An attempt may have ended between saving and evaluating: the checkpoint is told of again and evaluated.

        Or between evaluating and pausing: then this one pauses.
        """
        if not self._is_due(self.step):
            return
        told = self.world.broadcast(told_evaluation(source))
        if told is not None:
            self._pause_on(alarms_in(told))
            return
        if self.world.is_main:
            self.keeper.adopt(source, manifest)
        self._evaluate()

    def _tell_start(self) -> None:
        model = self.policy.model
        started = RunStarted(
            total_steps=self.total,
            start_step=self.step,
            num_train_rows=len(self.checked.train.rows),
            num_dev_rows=len(self.checked.dev.rows),
            num_skipped_rows=len(self.checked.train.skipped) + len(self.checked.dev.skipped),
            attention=self.policy.attention_words,
            precision=self.prepared.pins["dtype"],
            device=torch.cuda.get_device_name() if self.policy.device.type == "cuda" else "CPU",
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            num_trainable_parameters=sum(parameter.numel() for parameter in self.policy.parameters()),
            desirable_weight=self.settings.loss.desirable_weight,
            undesirable_weight=self.settings.loss.undesirable_weight,
            objective=self.config.objective,
            num_units=len(self.checked.units.units),
            checkpointing=self.prepared.plan.words(self.checked.model_config.get_text_config().num_hidden_layers),
            world_size=self.world.size,
        )
        self.report.emit("run_started", self.step, started)

    # The loop ------------------------------------------------------------------------------------------------------

    def _train_step(self) -> None:
        began = time.monotonic()
        batch = self.prepared.train.batch(self.sampler.units_of(self.step))
        rate = learning_rate(self.config, self.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        if self.world.size > 1:  # dropout of its own in each process, and no random state of the others to save
            torch.manual_seed(self.world.seed(self.config.seed, self.step))
        result = self._backward(batch)
        norm = float(torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm))
        self.clamped_steps += int(result.kl is not None and result.kl.raw < 0)
        self.step += 1
        if result.bad_ids or not math.isfinite(norm):
            self._bad_step(result)
            return
        self.bad_steps = 0
        self.optimizer.step()
        seconds = time.monotonic() - began
        metrics = step_metrics(result, batch.labels) | {
            "grad_norm": norm,
            "learning_rate": rate,
            "epoch": self.step / self.sampler.steps_per_epoch,
            "tokens_per_second": sum(len(x) for pair in batch.pairs for x in pair) / max(seconds, 1e-9),
            "memory_bytes": float(peak_memory(self.policy.device)),
        }
        if result.kl is not None:
            metrics["kl/clamp_rate"] = self.clamped_steps / self.step
        self.report.emit("metrics", self.step, metrics)
        self._progress("training", self.step, self.total)

    def _backward(self, batch: StepBatch) -> StepResult:
        try:
            return backward_step(self.policy, batch, self.settings)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise DoesNotFitError(f"Memory ran out in step {self.step + 1}: {self.prepared.plan.advice()}.") from error

    def _bad_step(self, result: StepResult) -> None:
        """Leave the adapters as they are; stop where it keeps happening."""
        self.bad_steps += 1
        rows = f"rows {result.bad_ids[:10]}" if result.bad_ids else "the gradient"
        text = f"Step {self.step} is skipped: {rows} gave no finite number."
        self.report.notice(text, step=self.step, warning=True, rows=result.bad_ids)
        if self.bad_steps >= MAX_BAD_STEPS:
            raise DivergedError(
                f"{self.bad_steps} steps in a row gave no finite number; lower the learning rate or raise beta."
            )

    # Checkpoints and evaluation ------------------------------------------------------------------------------------

    def _is_due(self, step: int) -> bool:
        return step > 0 and (step % self.config.evaluation.interval_steps == 0 or step == self.total)

    def _save(self) -> None:
        self.saved_step = self.step
        if not self.world.is_main:
            return
        self._progress("saving", 0, 1)
        manifest = Manifest(
            run_id=self.spec.run_id,
            step=self.step,
            total_steps=self.total,
            config=json.loads(json.dumps(self.config.to_json())),
            snapshot_hash=self.checked.snapshot_hash,
            pins=self.prepared.pins,
            progress={"clamped_steps": self.clamped_steps, "bad_steps": self.bad_steps},
        )
        self.keeper.save(manifest, self.policy.model, self.optimizer)

    def _evaluate(self) -> None:
        """Evaluate the policy as it stands and leave no trace in it: random states are put back."""
        if not self.prepared.dev.rows and not self.checked.prompts:
            return
        self._progress("evaluating", 0, 1)
        before = rng_state()
        heldout = heldout_rows(self.policy, self.prepared.dev, token_budget=self.config.tokens_per_microbatch)
        try:
            result = on_main(self.policy, lambda: self._watch(heldout))
        finally:
            restore_rng(before)
            self.policy.model.eval()
        if result is not None:
            self.report.emit("evaluation_finished", self.step, result)
            self.keeper.evaluated(self.step, result)
        self._pause_on(result.alarms if result is not None else [])

    def _pause_on(self, alarms: Sequence[Alarm]) -> None:
        """Every process does what rank 0 has seen."""
        self.paused = self.world.broadcast(self.watch.pause_message(self.step, alarms))

    def _watch(self, heldout: HeldoutRows) -> EvaluationResult:
        return self.watch.evaluate(
            self.policy,
            heldout,
            step=self.step,
            reference_key=self.prepared.reference_key,
            on_progress=lambda done, total: self._progress("evaluating", done, total, together=False),
        )

    def _progress(self, phase: Phase, done: int, total: int, *, together: bool = True) -> None:
        """Tell, and leave where the phase can be left: nothing is lost before the first step or inside an evaluation.

        ``together``: every process is here, and one that was asked to stop stops all.
        """
        self.report.progress(Progress(phase=phase, done=done, total=total), step=self.step)
        if phase not in {"loading", "reference", "evaluating"}:
            return
        stop = self.should_stop()
        if self.world.any(stop) if together else stop:
            raise StopRequest


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of the allocator on CUDA, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
