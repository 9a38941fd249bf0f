from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.evaluations.queries import best_of, samples_side_by_side
from app.evaluations.service import record_screen
from app.models import Evaluation, EvaluationCategory, EvaluationSample
from tests.evaluations.support import checkpoint_of, estimate, heldout, result, run_in, write_samples


def counts(db: Session) -> tuple[int, ...]:
    return tuple(
        db.scalar(select(func.count()).select_from(table)) or 0
        for table in (Evaluation, EvaluationCategory, EvaluationSample)
    )


def test_a_result_is_stored_whole_and_once(db: Session, factory: Any, tmp_path: Path) -> None:
    run = run_in(factory, factory.project())
    checkpoint = checkpoint_of(factory, run)
    data = result(10)
    lines = write_samples(tmp_path, data)
    first = record_screen(db, run=run, checkpoint=checkpoint, data=data, attempt_dir=tmp_path)
    again = record_screen(db, run=run, checkpoint=checkpoint, data=data, attempt_dir=tmp_path)
    assert first.id == again.id
    assert counts(db) == (1, 2, lines)
    assert first.heldout == data["heldout"]
    assert first.diversity is not None
    assert "categories" not in first.diversity
    assert first.diversity["overall"]["similarity"]["reference"] == 0.3


def test_both_arms_of_a_prompt_stand_side_by_side(db: Session, factory: Any, tmp_path: Path) -> None:
    run = run_in(factory, factory.project())
    data = result(10)
    write_samples(tmp_path, data)
    evaluation = record_screen(db, run=run, checkpoint=checkpoint_of(factory, run), data=data, attempt_dir=tmp_path)
    page = samples_side_by_side(db, evaluation, category=None, after=None)
    assert [item.number for item in page.rows] == [0, 1, 2, 3]
    for item in page.rows:
        assert [row.number for row in item.reference] == [row.number for row in item.policy] == [0, 1]
        assert {row.arm for row in item.policy} == {"policy"}
    only = samples_side_by_side(db, evaluation, category="weather", after=2)
    assert [(item.number, item.category) for item in only.rows] == [(3, "weather")]


def test_what_a_model_samples_can_always_be_stored(db: Session, factory: Any, tmp_path: Path) -> None:
    run = run_in(factory, factory.project())
    data = result(10, categories=("greeting",))
    write_samples(tmp_path, data, text="a\x00b\ud83d c")
    evaluation = record_screen(db, run=run, checkpoint=checkpoint_of(factory, run), data=data, attempt_dir=tmp_path)
    assert set(db.scalars(select(EvaluationSample.text).where(EvaluationSample.evaluation_id == evaluation.id))) == {
        "a\ufffdb? c"
    }


def test_figures_are_kept_without_samples_and_without_categories(db: Session, factory: Any, tmp_path: Path) -> None:
    run = run_in(factory, factory.project())
    data = result(10, diversity=None)
    evaluation = record_screen(db, run=run, checkpoint=checkpoint_of(factory, run), data=data, attempt_dir=tmp_path)
    assert evaluation.diversity is None
    assert counts(db) == (1, 0, 0)


def test_the_best_checkpoint_goes_by_the_auc_within_the_prompt(db: Session, factory: Any, tmp_path: Path) -> None:
    run = run_in(factory, factory.project())
    figures = [(10, 0.6, 0.9), (20, 0.7, 0.6), (30, 0.7, 0.8)]
    evaluations = [
        record_screen(
            db,
            run=run,
            checkpoint=checkpoint_of(factory, run, step),
            data=result(
                step,
                diversity=None,
                heldout=heldout(auc_within_prompt=estimate(within), auc=estimate(pooled)),
            ),
            attempt_dir=tmp_path,
        )
        for step, within, pooled in figures
    ]
    best = best_of(evaluations)
    assert best is not None
    assert best.step == 20, "the higher within-prompt AUC, of equals the earlier one"
    for item in evaluations:
        item.heldout = heldout(auc_within_prompt=estimate(None), auc=item.heldout["auc"])
    fallback = best_of(evaluations)
    assert fallback is not None
    assert fallback.step == 10, "pooled AUC where no prompt carries both labels"
    assert best_of([]) is None
