"""What the pages read: bounded, and always inside one project."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from app.core.errors import NotFoundError
from app.core.pagination import Page, page_of
from app.evaluations.service import FULL
from app.models import Evaluation, EvaluationCategory, EvaluationSample, Run
from app.runs.curves import held_out_auc

RUNS_PER_PAGE = 25
PROMPTS_PER_PAGE = 5
_BY_STEP = (Evaluation.step, Evaluation.kind == FULL, Evaluation.id)
"""The full evaluation of a checkpoint comes after its screen."""


def evaluated_run(db: Session, project_id: int, run_id: int) -> Run:
    """Raises NotFoundError for a run of another project."""
    run = db.scalar(select(Run).options(joinedload(Run.snapshot)).where(Run.project_id == project_id, Run.id == run_id))
    if run is None:
        raise NotFoundError("There is no such run.")
    return run


def evaluations_of(db: Session, run: Run) -> list[Evaluation]:
    """By step, one a checkpoint: the full evaluation where there is one. As many as the run has checkpoints."""
    rows = db.scalars(
        select(Evaluation)
        .options(joinedload(Evaluation.checkpoint))
        .where(Evaluation.project_id == run.project_id, Evaluation.run_id == run.id)
        .order_by(*_BY_STEP)
    )
    return _one_a_step(rows)


def _one_a_step(by_step: Iterable[Evaluation]) -> list[Evaluation]:
    return list({row.step: row for row in by_step}.values())


def auc_of(evaluation: Evaluation) -> dict[str, Any]:
    return held_out_auc(evaluation.heldout)


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The checkpoint to prefer on the dev split; of equals the earlier. None where no AUC could be had."""
    judged = [item for item in evaluations if auc_of(item)["value"] is not None]
    return max(judged, key=lambda item: (auc_of(item)["value"], -item.step), default=None)


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    run: Run
    evaluations: list[Evaluation]

    @property
    def best(self) -> Evaluation | None:
        return best_of(self.evaluations)

    @property
    def aucs(self) -> list[float]:
        """Over the checkpoints, for the small curve."""
        return [value for item in self.evaluations if (value := auc_of(item)["value"]) is not None]


def evaluated_runs(db: Session, project_id: int, before: int | None) -> Page[EvaluatedRun]:
    """Runs that have an evaluation, newest first; ``before`` is the last run id of the page before."""
    has_one = select(Evaluation.id).where(Evaluation.run_id == Run.id).exists()
    query = select(Run).options(joinedload(Run.snapshot)).where(Run.project_id == project_id, has_one)
    if before is not None:
        query = query.where(Run.id < before)
    page = page_of(
        list(db.scalars(query.order_by(Run.id.desc()).limit(RUNS_PER_PAGE + 1))), RUNS_PER_PAGE, lambda run: run.id
    )
    by_run: dict[int, list[Evaluation]] = defaultdict(list)
    for item in db.scalars(
        select(Evaluation)
        .where(Evaluation.project_id == project_id, Evaluation.run_id.in_([run.id for run in page.rows]))
        .order_by(*_BY_STEP)
    ):
        by_run[item.run_id].append(item)
    return Page([EvaluatedRun(run, _one_a_step(by_run[run.id])) for run in page.rows], page.next_cursor)


def categories_at(db: Session, evaluation: Evaluation, names: Sequence[str] | None = None) -> list[EvaluationCategory]:
    """By name; a few hundred at most, since a project's categories are. ``names`` keeps these only."""
    query = select(EvaluationCategory).where(EvaluationCategory.evaluation_id == evaluation.id)
    if names is not None:
        query = query.where(EvaluationCategory.category.in_(names))
    return list(db.scalars(query.order_by(EvaluationCategory.category)))


@dataclass(slots=True)
class PromptSamples:
    number: int
    category: str
    prompt: list[Any]
    reference: list[EvaluationSample] = field(default_factory=list)
    policy: list[EvaluationSample] = field(default_factory=list)


def samples_side_by_side(
    db: Session, evaluation: Evaluation, *, category: str | None, after: int | None
) -> Page[PromptSamples]:
    """Both arms' samples of a few prompts; ``after`` is the last prompt number of the page before."""
    scope = [EvaluationSample.evaluation_id == evaluation.id]
    if category:
        scope.append(EvaluationSample.category == category)
    wanted = select(EvaluationSample.prompt_number).where(*scope)
    if after is not None:
        wanted = wanted.where(EvaluationSample.prompt_number > after)
    wanted = wanted.group_by(EvaluationSample.prompt_number).order_by(EvaluationSample.prompt_number)
    numbers = page_of(list(db.scalars(wanted.limit(PROMPTS_PER_PAGE + 1))), PROMPTS_PER_PAGE, lambda number: number)
    found: dict[int, PromptSamples] = {}
    for row in db.scalars(
        select(EvaluationSample)
        .where(*scope, EvaluationSample.prompt_number.in_(numbers.rows))
        .order_by(EvaluationSample.prompt_number, EvaluationSample.arm, EvaluationSample.number)
    ):
        entry = found.setdefault(row.prompt_number, PromptSamples(row.prompt_number, row.category, row.prompt))
        (entry.reference if row.arm == "reference" else entry.policy).append(row)
    return Page(list(found.values()), numbers.next_cursor)


def num_prompts(db: Session, evaluation: Evaluation, category: str | None) -> int:
    query = select(func.count(EvaluationSample.prompt_number.distinct())).where(
        EvaluationSample.evaluation_id == evaluation.id
    )
    if category:
        query = query.where(EvaluationSample.category == category)
    return db.scalar(query) or 0
