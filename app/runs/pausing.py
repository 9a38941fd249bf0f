"""A run that a critical alarm has paused: how it gets there, and how it goes on by a lead's decision, which is recorded."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.errors import ConflictError, InvalidError
from app.core.queue import QUEUE_TRAIN, enqueue
from app.models import ACTIVE, EvaluationAlarm, Run, RunEvent, RunStatus, User
from app.runs.lifecycle import ALIGN_TASK, OVER, move

CRITICAL = "critical"
ACCEPTED = "accepted"
MAX_REASON = 2000


def pause(db: Session, run_id: int, attempt: int, message: str) -> Run | None:
    """The attempt's trainer has saved and ended: lease and worker are free. A run that was asked to stop is cancelled.

    None where the attempt has lost the run.
    """
    stopped = move(
        db,
        run_id,
        RunStatus.CANCELLED,
        allowed=[RunStatus.STOPPING],
        attempt=attempt,
        message=message,
        values=OVER | {"failure_message": message},
    )
    return stopped or move(
        db,
        run_id,
        RunStatus.PAUSED,
        allowed=[RunStatus.STARTING, RunStatus.RUNNING],
        attempt=attempt,
        message=message,
        values={"lease_until": None, "worker": None, "failure_message": message},
    )


def go_on(db: Session, run: Run, user: User, reason: str) -> Run:
    """Queue a paused run again: the next attempt resumes from its last checkpoint, and does not pause for these alarms.

    Its open critical alarms are accepted with the reason. Asking twice is harmless. Raises InvalidError without a reason,
    ConflictError where the run is over.
    """
    reason = reason.strip()
    if not reason:
        raise InvalidError("A reason is needed.", fields={"reason": "say why the run goes on in spite of the alarm"})
    if len(reason) > MAX_REASON:
        raise InvalidError("The reason is too long.", fields={"reason": f"must have at most {MAX_REASON:,} characters"})
    kinds = critical_kinds(db, run)
    queued = move(
        db,
        run.id,
        RunStatus.QUEUED,
        allowed=[RunStatus.PAUSED],
        user_id=user.id,
        message=f"{user.name} goes on in spite of the alarm: {reason}",
        values={
            "acknowledged_alarms": sorted({*run.acknowledged_alarms, *kinds}),
            "failure_message": None,
        },
    )
    if queued is None:
        db.refresh(run)
        if run.status in {RunStatus.QUEUED, *ACTIVE}:
            return run
        raise ConflictError(f"{run.name} is not paused.", remedy="There is nothing to decide.")
    audit.record(
        db, "run.gone_on", project_id=run.project_id, user_id=user.id, subject=run.name, reason=reason, alarms=kinds
    )
    accepted = update(EvaluationAlarm).where(*_open_critical(run))
    db.execute(
        accepted.values(resolution=ACCEPTED, reason=reason, resolved_by=user.id, resolved_at=func.clock_timestamp())
    )
    enqueue(db, ALIGN_TASK, run.id, queue=QUEUE_TRAIN)
    return queued


def critical_kinds(db: Session, run: Run) -> list[str]:
    """Kinds of critical alarms that no one has decided about: of the stored alarms, and of what the trainer told last.

    The latter alone is what it has paused for; an evaluation that could not be stored must not pause the run for ever.
    """
    stored = db.scalars(select(EvaluationAlarm.kind).where(*_open_critical(run)))
    told = [alarm["kind"] for alarm in told_alarms(db, run)]
    return sorted({*stored, *told})


def told_alarms(db: Session, run: Run) -> list[dict[str, object]]:
    """The critical alarms of the newest evaluation, as the trainer told them."""
    data = db.scalar(
        select(RunEvent.data)
        .where(RunEvent.run_id == run.id, RunEvent.kind == "evaluation_finished")
        .order_by(RunEvent.attempt.desc(), RunEvent.step.desc(), RunEvent.id.desc())
        .limit(1)
    )
    return [alarm for alarm in (data or {}).get("alarms") or [] if alarm.get("level") == CRITICAL]


def critical_steps(db: Session, run: Run) -> set[int]:
    """Steps of the checkpoints at which a critical alarm was raised, decided about or not."""
    raised = select(EvaluationAlarm.step).where(EvaluationAlarm.run_id == run.id, EvaluationAlarm.level == CRITICAL)
    return set(db.scalars(raised))


def _open_critical(run: Run) -> Sequence[ColumnElement[bool]]:
    return (EvaluationAlarm.run_id == run.id, EvaluationAlarm.level == CRITICAL, EvaluationAlarm.resolution == "")
