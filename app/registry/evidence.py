"""Gathers what is known about a checkpoint, for its gates and its card."""

from __future__ import annotations

from typing import Any

from sqlalchemy import case, or_, select
from sqlalchemy.orm import Session, joinedload

from app.models import (
    Comparison,
    ComparisonArm,
    Evaluation,
    EvaluationAlarm,
    GatePolicy,
    ModelVersion,
    SuiteResult,
    SuiteVersion,
)
from app.registry.gates import Evidence, Gate, SuiteEvidence, gates_of

MARGIN_KEYS = {
    "eval": (("pass_rate", "min_delta"), ("mean", "min_delta")),
    "redteam": (("pass_rate", "min_delta"), ("refusal_rate", "min_delta")),
    "benign": (("refusal_rate", "max_delta"),),
}
"""Where a suite's header may set its own margin."""


def evidence_of(db: Session, version: ModelVersion) -> Evidence:
    where = (Evaluation.project_id == version.project_id, Evaluation.checkpoint_id == version.checkpoint_id)
    fullest_first = case((Evaluation.kind == "full", 0), else_=1)
    evaluation = db.scalar(select(Evaluation).where(*where).order_by(fullest_first).limit(1))
    alarms = (
        db.scalars(
            select(EvaluationAlarm)
            .join(Evaluation, Evaluation.id == EvaluationAlarm.evaluation_id)
            .where(EvaluationAlarm.project_id == version.project_id, *where)
            .order_by(EvaluationAlarm.id)
        ).all()
        if evaluation
        else []
    )
    return Evidence(
        evaluation=evaluation, alarms=alarms, decision=decision_of(db, version), suites=suites_of(db, version)
    )


def gates_of_version(db: Session, version: ModelVersion | None) -> list[Gate]:
    """Empty without a version."""
    if version is None:
        return []
    return gates_of(evidence_of(db, version), db.get(GatePolicy, version.project_id))


def comparison_of(db: Session, version: ModelVersion) -> Comparison | None:
    """The newest finished one in which the version's run was an arm of KTO: the baseline is not judged against itself."""
    is_arm = select(ComparisonArm.id).where(
        ComparisonArm.comparison_id == Comparison.id,
        ComparisonArm.run_id == version.run_id,
        ComparisonArm.arm.startswith("kto"),
    )
    return db.scalar(
        select(Comparison)
        .where(
            Comparison.project_id == version.project_id,
            Comparison.status == "succeeded",
            or_(Comparison.run_id == version.run_id, is_arm.exists()),
        )
        .order_by(Comparison.id.desc())
        .limit(1)
    )


def decision_of(db: Session, version: ModelVersion) -> dict[str, Any] | None:
    found = comparison_of(db, version)
    return found.decision if found else None


def suites_of(db: Session, version: ModelVersion) -> list[SuiteEvidence]:
    """The newest result of each suite on this checkpoint, by name."""
    rows = db.scalars(
        select(SuiteResult)
        .options(joinedload(SuiteResult.suite_version).joinedload(SuiteVersion.suite))
        .where(SuiteResult.project_id == version.project_id, SuiteResult.checkpoint_id == version.checkpoint_id)
        .order_by(SuiteResult.id)
    )
    newest = {row.suite_version.suite.name: row for row in rows}
    return [_suite(row) for _, row in sorted(newest.items())]


def _suite(row: SuiteResult) -> SuiteEvidence:
    suite = row.suite_version.suite
    rules = row.suite_version.header.get("gates", {})
    given = (rules.get(score, {}).get(bound) for score, bound in MARGIN_KEYS.get(suite.kind, ()))
    margin = next((value for value in given if value is not None), None)
    return SuiteEvidence(
        name=suite.name,
        kind=suite.kind,
        num_samples=row.summary["num_samples"],
        num_failed=row.summary.get("num_failed", 0),
        difference=row.summary.get("difference"),
        margin=None if margin is None else abs(margin),
        content_hash=row.suite_version.content_hash,
        summary=row.summary,
    )
