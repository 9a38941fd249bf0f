"""Alarms of a run: what was raised, since when, and what a lead decided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.models import Evaluation, EvaluationAlarm, Run, User
from app.web.formats import plural

LEVELS = ("critical", "alarm", "watch")
"""By weight."""
COUNTED = ("critical", "alarm")
"""Levels that count as an alarm: a watch is a first sight, which the next checkpoint confirms or drops."""
DECISIONS = {"dismissed": "Dismiss: no fault of the model's", "accepted": "Accept: go on with it"}
MAX_REASON = 2000


@dataclass(frozen=True, slots=True)
class RunAlarm:
    """One thing that was raised, at however many checkpoints: its newest row and the first of the unbroken series."""

    row: EvaluationAlarm
    since: int
    """Step of the first checkpoint of the series that leads to the newest one."""
    current: bool
    """Raised at the newest checkpoint of the run."""
    resolved_by: str = ""

    @property
    def open(self) -> bool:
        return not self.row.resolution

    @property
    def counts(self) -> bool:
        return self.open and self.row.level in COUNTED

    @property
    def figures(self) -> dict[str, Any]:
        return self.row.data


def counted(count: int) -> str:
    return plural(count, "alarm")


def alarms_of_run(db: Session, run: Run) -> list[RunAlarm]:
    """One entry a subject: open ones first, by level, then by the size of the change."""
    rows = db.execute(
        select(EvaluationAlarm, User.name)
        .outerjoin(User, User.id == EvaluationAlarm.resolved_by)
        .where(EvaluationAlarm.project_id == run.project_id, EvaluationAlarm.run_id == run.id)
        .order_by(EvaluationAlarm.step, EvaluationAlarm.id)
    ).all()
    statement = select(Evaluation.step).where(Evaluation.run_id == run.id).distinct().order_by(Evaluation.step)
    steps = list(db.scalars(statement)) if rows else []
    series: dict[tuple[str, str], list[tuple[EvaluationAlarm, str | None]]] = defaultdict(list)
    for row, name in rows:
        series[row.kind, row.subject].append((row, name))
    found = [_of_series(entries, steps) for entries in series.values()]
    return sorted(found, key=_weight)


def _of_series(entries: Sequence[tuple[EvaluationAlarm, str | None]], steps: Sequence[int]) -> RunAlarm:
    row, name = entries[-1]
    raised = {entry.step for entry, _ in entries}
    since = row.step
    for step in reversed(steps[: steps.index(row.step)]):
        if step not in raised:
            break
        since = step
    return RunAlarm(row, since, current=row.step == steps[-1], resolved_by=name or "")


def _weight(item: RunAlarm) -> tuple[bool, int, bool, float, str]:
    data = item.row.data
    return (not item.open, LEVELS.index(item.row.level), not item.current, -abs(data["change"]), item.row.subject)


def raised_at(db: Session, evaluation: Evaluation) -> list[EvaluationAlarm]:
    """What one checkpoint raised, whatever was decided since."""
    where = (EvaluationAlarm.project_id == evaluation.project_id, EvaluationAlarm.evaluation_id == evaluation.id)
    return list(db.scalars(select(EvaluationAlarm).where(*where).order_by(EvaluationAlarm.id)))


def open_alarms(db: Session, evaluation: Evaluation) -> list[EvaluationAlarm]:
    """Undecided alarms of one checkpoint, critical ones first; watches are not among them."""
    rows = [row for row in raised_at(db, evaluation) if row.level in COUNTED and not row.resolution]
    return sorted(rows, key=lambda row: (LEVELS.index(row.level), row.id))


def num_open_by_run(db: Session, project_id: int, run_ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Run -> (critical, all) open alarms, one a subject."""
    subject = EvaluationAlarm.kind + ":" + EvaluationAlarm.subject
    critical = func.count(subject.distinct()).filter(EvaluationAlarm.level == "critical")
    rows = db.execute(
        select(EvaluationAlarm.run_id, critical, func.count(subject.distinct()))
        .where(
            EvaluationAlarm.project_id == project_id,
            EvaluationAlarm.run_id.in_(run_ids),
            EvaluationAlarm.level.in_(COUNTED),
            EvaluationAlarm.resolution == "",
        )
        .group_by(EvaluationAlarm.run_id)
    )
    return {run_id: (num_critical, num) for run_id, num_critical, num in rows}


def find_alarm(db: Session, project_id: int, run_id: int, alarm_id: int) -> EvaluationAlarm:
    """Raises NotFoundError for one of another run or project."""
    row = db.scalar(
        select(EvaluationAlarm).where(
            EvaluationAlarm.project_id == project_id,
            EvaluationAlarm.run_id == run_id,
            EvaluationAlarm.id == alarm_id,
        )
    )
    if row is None:
        raise NotFoundError("There is no such alarm.")
    return row


def decide(db: Session, *, alarm: EvaluationAlarm, decision: str, reason: str, user: User) -> int:
    """Write a lead's decision on the alarm and on the open ones of the same subject at earlier checkpoints; returns how many.

    A later checkpoint that raises it again asks anew. Raises InvalidError without a reason, ConflictError where somebody
    decided before.
    """
    given = reason.strip()
    errors = {}
    if decision not in DECISIONS:
        errors["decision"] = "Choose whether to dismiss or to accept it."
    if not given:
        errors["reason"] = "Say why: it is kept with the decision."
    elif len(given) > MAX_REASON:
        errors["reason"] = f"At most {MAX_REASON:,} characters; these are {len(given):,}."
    if errors:
        raise InvalidError("The decision is not complete.", fields=errors)
    rows = db.scalars(
        select(EvaluationAlarm)
        .where(
            EvaluationAlarm.project_id == alarm.project_id,
            EvaluationAlarm.run_id == alarm.run_id,
            EvaluationAlarm.kind == alarm.kind,
            EvaluationAlarm.subject == alarm.subject,
            EvaluationAlarm.step <= alarm.step,
            EvaluationAlarm.resolution == "",
        )
        .order_by(EvaluationAlarm.id)
        .with_for_update(),
        execution_options={"populate_existing": True},
    ).all()
    if alarm.id not in {row.id for row in rows}:
        raise ConflictError("This alarm has been decided already.", remedy="Reload the page to see by whom.")
    for row in rows:
        row.resolution, row.reason, row.resolved_by, row.resolved_at = decision, given, user.id, utcnow()
    db.flush()
    audit.record(
        db,
        f"alarm.{decision}",
        project_id=alarm.project_id,
        user_id=user.id,
        subject=f"{alarm.kind} {alarm.subject}".strip(),
        run_id=alarm.run_id,
        step=alarm.step,
        alarm_ids=[row.id for row in rows],
        reason=given,
    )
    return len(rows)
