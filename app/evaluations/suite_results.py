"""Reading what suites showed: results by version, by run, and the answers of one arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, joinedload

from app.core.errors import NotFoundError
from app.core.pagination import Page, page_of
from app.evaluations.jobs import REFERENCE
from app.models import (
    Checkpoint,
    EvalJob,
    Project,
    Run,
    SuiteResult,
    SuiteSample,
    SuiteSampleResult,
    SuiteVersion,
)

ANSWERS_PER_PAGE = 25
SHOWS = ("wrong", "failed", "refused", "all")
SAFETY_KINDS = ("redteam", "benign")


@dataclass(frozen=True, slots=True)
class Row:
    """One arm's result with what it stands beside."""

    result: SuiteResult
    reference: SuiteResult | None
    checkpoint: Checkpoint | None
    run: Run | None

    @property
    def version(self) -> SuiteVersion:
        return self.result.suite_version

    @property
    def summary(self) -> dict[str, Any]:
        return self.result.summary


def results_of_run(db: Session, run: Run, kinds: Sequence[str] | None = None) -> list[Row]:
    """Of the checkpoints of a run, newest first; the arms named ``reference`` stand beside the others."""
    query = (
        select(SuiteResult)
        .join(Checkpoint, Checkpoint.id == SuiteResult.checkpoint_id)
        .join(EvalJob, EvalJob.id == SuiteResult.job_id)
        .where(SuiteResult.project_id == run.project_id, Checkpoint.run_id == run.id, SuiteResult.arm != REFERENCE)
    )
    rows = _rows(db, query)
    return [row for row in rows if kinds is None or row.version.header.get("kind", "eval") in kinds]


def results_of_suite(db: Session, project: Project, suite_id: int, limit: int = 30) -> list[Row]:
    """Of every version of a suite, newest first."""
    query = (
        select(SuiteResult)
        .join(SuiteVersion, SuiteVersion.id == SuiteResult.suite_version_id)
        .where(SuiteResult.project_id == project.id, SuiteVersion.suite_id == suite_id, SuiteResult.arm != REFERENCE)
        .limit(limit)
    )
    return _rows(db, query)


def results_of_job(db: Session, job: EvalJob) -> list[Row]:
    return _rows(db, select(SuiteResult).where(SuiteResult.job_id == job.id))


def find_result(db: Session, project: Project, result_id: int) -> Row:
    """Raises NotFoundError."""
    query = select(SuiteResult).where(SuiteResult.project_id == project.id, SuiteResult.id == result_id)
    rows = _rows(db, query)
    if not rows:
        raise NotFoundError(
            "There is no such result in this project.", remedy="The evaluation may have been run again."
        )
    return rows[0]


def _rows(db: Session, query: Any) -> list[Row]:
    loaded = query.options(joinedload(SuiteResult.suite_version).joinedload(SuiteVersion.suite))
    results = list(db.scalars(loaded.order_by(SuiteResult.id.desc())))
    jobs, versions = {row.job_id for row in results}, {row.suite_version_id for row in results}
    references = {
        (row.job_id, row.suite_version_id): row
        for row in db.scalars(
            select(SuiteResult).where(
                SuiteResult.job_id.in_(jobs), SuiteResult.suite_version_id.in_(versions), SuiteResult.arm == REFERENCE
            )
        )
    }
    asked = {row.checkpoint_id for row in results if row.checkpoint_id is not None}
    checkpoints = {row.id: row for row in db.scalars(select(Checkpoint).where(Checkpoint.id.in_(asked)))}
    runs = {
        row.id: row for row in db.scalars(select(Run).where(Run.id.in_({item.run_id for item in checkpoints.values()})))
    }
    found = []
    for row in results:
        checkpoint = checkpoints.get(row.checkpoint_id or 0)
        run = runs.get(checkpoint.run_id) if checkpoint else None
        reference = references.get((row.job_id, row.suite_version_id)) if row.arm != REFERENCE else None
        found.append(Row(row, reference, checkpoint, run))
    return found


def counts(row: Row) -> dict[str, int]:
    """How many answers each filter of the page shows; "of 412 samples, 9 failed" stands on these."""
    summary = row.summary
    return {
        "wrong": summary.get("num_wrong", 0),
        "failed": summary.get("num_failed", 0),
        "refused": sum(summary.get("refusals", {}).get(name, 0) for name in ("partial", "full")),
        "all": summary.get("num_samples", 0),
    }


@dataclass(frozen=True, slots=True)
class ShownAnswer:
    sample: SuiteSample
    answer: SuiteSampleResult
    reference: SuiteSampleResult | None


def answers(db: Session, row: Row, show: str, category: str, after: int | None) -> Page[ShownAnswer]:
    """Answers of one result with the reference's to the same sample; ``after`` is the last place of the page before."""
    place = SuiteSampleResult.number * 1000 + SuiteSampleResult.repeat
    query = (
        select(SuiteSampleResult, SuiteSample)
        .join(
            SuiteSample,
            (SuiteSample.version_id == row.result.suite_version_id) & (SuiteSample.number == SuiteSampleResult.number),
        )
        .where(SuiteSampleResult.result_id == row.result.id)
    )
    if show == "wrong":
        query = query.where(SuiteSampleResult.passed.is_(False))
    elif show == "failed":
        query = query.where(or_(SuiteSampleResult.error.is_not(None), SuiteSampleResult.passed.is_(None)))
    elif show == "refused":
        query = query.where(SuiteSampleResult.refusal.in_(("partial", "full")))
    if category:
        query = query.where(SuiteSample.category == category)
    if after is not None:
        query = query.where(place > after)
    found = page_of(
        list(
            db.execute(query.order_by(SuiteSampleResult.number, SuiteSampleResult.repeat).limit(ANSWERS_PER_PAGE + 1))
        ),
        ANSWERS_PER_PAGE,
        lambda pair: pair[0].number * 1000 + pair[0].repeat,
    )
    beside = _beside(db, row, [pair[0].number for pair in found.rows])
    shown = [ShownAnswer(sample, answer, beside.get((answer.number, answer.repeat))) for answer, sample in found.rows]
    return Page(shown, found.next_cursor)


def _beside(db: Session, row: Row, numbers: Sequence[int]) -> dict[tuple[int, int], SuiteSampleResult]:
    if row.reference is None:
        return {}
    query = select(SuiteSampleResult).where(
        SuiteSampleResult.result_id == row.reference.id, SuiteSampleResult.number.in_(numbers)
    )
    return {(item.number, item.repeat): item for item in db.scalars(query)}


def samples_page(db: Session, version: SuiteVersion, after: int | None, limit: int = 50) -> Page[SuiteSample]:
    query = select(SuiteSample).where(SuiteSample.version_id == version.id)
    if after is not None:
        query = query.where(SuiteSample.number > after)
    rows = list(db.scalars(query.order_by(SuiteSample.number).limit(limit + 1)))
    return page_of(rows, limit, lambda row: row.number)


def runnable_checkpoints(db: Session, project: Project, limit: int = 100) -> Sequence[tuple[Checkpoint, Run]]:
    """Checkpoints whose files are kept, newest first."""
    query = (
        select(Checkpoint, Run)
        .join(Run, Run.id == Checkpoint.run_id)
        .where(Run.project_id == project.id, Checkpoint.removed_at.is_(None))
        .order_by(Checkpoint.id.desc())
        .limit(limit)
    )
    return [(checkpoint, run) for checkpoint, run in db.execute(query)]
