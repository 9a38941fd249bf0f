"""When a larger evaluation of a checkpoint is asked for: after a critical alarm, and at the end where there is more to see."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.evaluations.jobs import POLICY, REFERENCE, create_job
from app.models import Checkpoint, ComparisonArm, EvalJob, Project, Run, SuiteSample
from app.runs.diversity_suites import find_version
from worker.alignment.config import AlignmentConfig

KIND = "full"


def ask_for_full(db: Session, run: Run, checkpoint: Checkpoint, data: dict[str, Any]) -> EvalJob | None:
    """Queue a full evaluation of the checkpoint that ``data``, its screen, speaks of; None where none is wanted.

    After a critical alarm once a run, however many follow; at the last checkpoint where the run's suite holds more prompts
    of some category than a screen takes, unless the run is an arm of a comparison, which measures its arms itself.
    """
    is_critical = any(alarm["level"] == "critical" for alarm in data.get("alarms") or [])
    if data.get("diversity") is None or checkpoint.removed_at is not None:
        return None
    known = db.scalars(select(EvalJob.checkpoint_id).where(EvalJob.run_id == run.id, EvalJob.kind == KIND)).all()
    after_alarm = is_critical and not known
    at_end = checkpoint.is_last and checkpoint.id not in known and _holds_more(db, run) and not _is_arm(db, run)
    if not after_alarm and not at_end:
        return None
    return create_job(
        db,
        db.get_one(Project, run.project_id),
        KIND,
        f"{run.name}, step {checkpoint.step:,}: full evaluation",
        {
            "base_model": run.config["base_model"],
            "arms": [
                {"name": REFERENCE, "checkpoint_id": None, "system_prompt": ""},
                {"name": POLICY, "checkpoint_id": checkpoint.id, "system_prompt": ""},
            ],
            "suite_versions": [],
        },
        run_id=run.id,
        checkpoint_id=checkpoint.id,
    )


def _is_arm(db: Session, run: Run) -> bool:
    return db.scalar(select(ComparisonArm.id).where(ComparisonArm.run_id == run.id).limit(1)) is not None


def _holds_more(db: Session, run: Run) -> bool:
    settings = AlignmentConfig.from_json(run.config, drop_unknown=True).evaluation
    version = find_version(db, run.project_id, settings.diversity_suite)
    if version is None:
        return False
    sizes = select(func.count()).where(SuiteSample.version_id == version.id).group_by(SuiteSample.category).subquery()
    largest = db.scalar(select(func.max(sizes.c[0]))) or 0
    return int(largest) > settings.prompts_per_category
