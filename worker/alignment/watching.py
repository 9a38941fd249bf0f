"""What watches a run at its checkpoints: the evaluation, the look before it, and whether an alarm pauses the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from worker.alignment.checks import Checked
from worker.alignment.config import EvaluationSettings, TrainSpec
from worker.alignment.evaluation.looks import previous_look
from worker.alignment.evaluation.quality import MAX_ROWS, LabelModel, fit_label_model
from worker.alignment.events import Alarm, EvaluationResult
from worker.alignment.policy import Policy
from worker.alignment.prompts import PromptCase

if TYPE_CHECKING:
    from worker.alignment.evaluation.screen import HeldoutRows


class EvaluateFn(Protocol):
    """``worker.alignment.evaluation.screen.screen``, or a test's own."""

    def __call__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        heldout: HeldoutRows,
        beta: float,
        prompts: Sequence[PromptCase],
        settings: EvaluationSettings,
        step: int,
        reference_cache: Path,
        attempt_dir: Path,
        reference_key: str,
        previous: EvaluationResult | None,
        label_model: LabelModel | None,
        on_progress: Callable[[int, int], None],
    ) -> EvaluationResult: ...


@dataclass(slots=True)
class Watch:
    """Of one attempt; its evaluations run on rank 0."""

    spec: TrainSpec
    checked: Checked
    evaluate_fn: EvaluateFn
    _model: LabelModel | None = None

    def evaluate(
        self,
        policy: Policy,
        heldout: HeldoutRows,
        *,
        step: int,
        reference_key: str,
        on_progress: Callable[[int, int], None],
    ) -> EvaluationResult:
        spec = self.spec
        attempt_dir = Path(spec.attempt_dir)
        resume_from = Path(spec.resume_from) if spec.resume_from else None
        return self.evaluate_fn(
            model=policy.model,
            tokenizer=policy.tokenizer,
            heldout=heldout,
            beta=spec.config.beta,
            prompts=self.checked.prompts,
            settings=spec.config.evaluation,
            step=step,
            reference_cache=Path(spec.cache_dir) / "samples",
            attempt_dir=attempt_dir,
            reference_key=reference_key,
            previous=previous_look(attempt_dir, resume_from, step),
            label_model=self._label_model(policy.tokenizer),
            on_progress=on_progress,
        )

    def _label_model(self, tokenizer: Any) -> LabelModel | None:
        """What the votes say of a text, learned once from all training rows: the same for every objective on a snapshot."""
        if self._model is None and self.checked.prompts:
            rated = self.checked.rated
            kept = np.sort(np.random.default_rng(0).permutation(len(rated))[:MAX_ROWS])
            rows = [rated[index] for index in kept]
            texts = [tokenizer.decode(row.pair.completion_ids, skip_special_tokens=True) for row in rows]
            self._model = fit_label_model(texts, [row.label for row in rows], [row.root for row in rows])
        return self._model

    def pause_message(self, step: int, alarms: Sequence[Alarm]) -> str:
        """One line why the run ends here: a critical alarm of a kind that no one has decided about; "" without one."""
        if not self.spec.config.evaluation.pause_on_alarm:
            return ""
        known = self.spec.acknowledged_alarms
        texts = [alarm.text for alarm in alarms if alarm.level == "critical" and alarm.kind not in known]
        more = f" And {len(texts) - 1} more." if len(texts) > 1 else ""
        return f"Paused at step {step}: {texts[0]}{more}" if texts else ""
