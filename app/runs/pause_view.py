"""What the page of a paused run shows: the alarms in sentences, and a few samples of the prompts that went worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Float, cast, select
from sqlalchemy.orm import Session

from app.models import Evaluation, EvaluationCategory, EvaluationSample, Run
from app.runs.pausing import told_alarms
from worker.alignment.evaluation.texts import is_loop

NUM_CATEGORIES = 3
NUM_SHOWN = 2
"""Samples of an arm."""
MAX_CHARACTERS = 320

Fault = Callable[[EvaluationSample], bool]
FAULTS: dict[str, Fault] = {
    "loop_rate": lambda sample: is_loop(sample.text),
    "truncated_share": lambda sample: sample.truncated,
    "empty_share": lambda sample: not sample.text.strip(),
}
"""Metric -> whether a sample is one of those that it counts; the samples with the fault are shown first."""


@dataclass(frozen=True, slots=True)
class ShownSample:
    text: str
    truncated: bool


@dataclass(slots=True)
class WorstPrompt:
    category: str
    question: str
    """The last user message."""
    arms: dict[str, list[ShownSample]] = field(default_factory=dict)
    """``reference`` and ``policy``."""


@dataclass(frozen=True, slots=True)
class PauseView:
    alarms: list[str]
    """Sentences, as the trainer told them."""
    step: int
    prompts: list[WorstPrompt]
    errors: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    """What was typed."""


def pause_view(db: Session, run: Run, *, errors: dict[str, str] | None = None, reason: str = "") -> PauseView | None:
    """None where the run is not paused."""
    if run.status != "paused":
        return None
    alarms = told_alarms(db, run)
    evaluation = db.scalar(
        select(Evaluation)
        .where(Evaluation.project_id == run.project_id, Evaluation.run_id == run.id, Evaluation.kind == "screen")
        .order_by(Evaluation.step.desc())
        .limit(1)
    )
    texts = [str(alarm["text"]) for alarm in alarms] or [run.failure_message or "A critical alarm was raised."]
    prompts = _worst_prompts(db, evaluation, str(alarms[0]["metric"])) if alarms and evaluation else []
    step = evaluation.step if evaluation else run.step
    return PauseView(alarms=texts, step=step, prompts=prompts, errors=errors or {}, reason=reason)


def _worst_prompts(db: Session, evaluation: Evaluation, metric: str) -> list[WorstPrompt]:
    """One prompt of each of the categories where the policy's figure is highest."""
    policy, change = (cast(EvaluationCategory.metrics[metric][key].astext, Float) for key in ("policy", "change"))
    names = db.scalars(
        select(EvaluationCategory.category)
        .where(EvaluationCategory.evaluation_id == evaluation.id, change > 0)
        .order_by(policy.desc(), change.desc(), EvaluationCategory.category)
        .limit(NUM_CATEGORIES)
    ).all()
    rows = db.scalars(
        select(EvaluationSample)
        .where(EvaluationSample.evaluation_id == evaluation.id, EvaluationSample.category.in_(names))
        .order_by(EvaluationSample.prompt_number, EvaluationSample.arm, EvaluationSample.number)
    ).all()
    fault: Fault = FAULTS.get(metric, lambda _: False)
    by_prompt: dict[tuple[str, int], list[EvaluationSample]] = {}
    for row in rows:
        by_prompt.setdefault((row.category, row.prompt_number), []).append(row)

    def badness(samples: Sequence[EvaluationSample]) -> int:
        return sum(fault(sample) for sample in samples if sample.arm == "policy")

    found = []
    for name in names:
        members = [samples for (category, _), samples in by_prompt.items() if category == name]
        if members:
            found.append(_shown(max(members, key=badness), fault))
    return found


def _shown(samples: Sequence[EvaluationSample], fault: Fault) -> WorstPrompt:
    shown = WorstPrompt(samples[0].category, _question(samples[0].prompt))
    for arm in ("reference", "policy"):
        own = sorted((sample for sample in samples if sample.arm == arm), key=lambda sample: not fault(sample))
        shown.arms[arm] = [ShownSample(_cut(sample.text), sample.truncated) for sample in own[:NUM_SHOWN]]
    return shown


def _question(messages: Sequence[dict[str, Any]]) -> str:
    said = [message["content"] for message in messages if isinstance(message.get("content"), str)]
    return _cut(said[-1]) if said else ""


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS].rstrip() + " …"
