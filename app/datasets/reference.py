"""Reference checks: how likely a base model finds the collected completions, by the model that wrote them.

KTO's reference is the model that training starts from. Completions that it would hardly ever have written teach it little and
pull it far; the remedy of the KTO paper (Ethayarajh et al. 2024) is to fine-tune on desirable completions first (SFT), then KTO.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.clock import utcnow
from app.core.errors import ConflictError
from app.core.queue import QUEUE_TRAIN, enqueue
from app.models import Project, ReferenceCheck, User
from app.settings import get_settings
from app.web.svg import ForestRow

TASK = "worker.tasks.reference.check"
FAR_BELOW_OWN = 1.0
"""Nats per token below the base model's own samples from which a model's completions count as far off-policy."""
FAR_ALONE = -2.0
"""The same where no completion is the base model's own: a perplexity above 7.4."""
MAX_TRIES = 3
OPEN = ("queued", "running")


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """Mean log-prob per token of one model's completions, over completions."""

    model: str
    n: int
    mean: float
    low: float
    high: float
    labels: int
    """All completions of this model that have a vote."""


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """The last finished check, ready for a page."""

    check: ReferenceCheck
    models: list[ModelFigures]

    @property
    def base_label(self) -> str:
        return self.check.base_model.rstrip("/").rpartition("/")[2]

    @property
    def own(self) -> ModelFigures | None:
        """The base model's own samples: a model called by its whole name, or by its folder's."""
        names = {self.check.base_model, self.base_label}
        return next((item for item in self.models if item.model in names), None)

    @property
    def limit(self) -> float:
        return self.own.mean - FAR_BELOW_OWN if self.own else FAR_ALONE

    def is_far(self, item: ModelFigures) -> bool:
        """With its whole interval: chance alone does not make a model far."""
        return item.high < self.limit

    @property
    def far_share(self) -> float | None:
        """Of the completions with a vote, those of models that are far off."""
        total = sum(item.labels for item in self.models)
        return sum(item.labels for item in self.models if self.is_far(item)) / total if total else None

    @property
    def rows(self) -> list[ForestRow]:
        return [
            ForestRow(
                name=item.model or "no model named",
                value=item.mean,
                low=item.low,
                high=item.high,
                note=f"{item.n:,} completions" + (", the base model’s own" if item is self.own else ""),  # noqa: RUF001
                cls="ink",
                strong=item is self.own,
            )
            for item in self.models
        ]


def latest(db: Session, project: Project, *, finished: bool = False) -> ReferenceCheck | None:
    query = select(ReferenceCheck).where(ReferenceCheck.project_id == project.id)
    if finished:
        query = query.where(ReferenceCheck.status == "succeeded")
    return db.scalar(query.order_by(ReferenceCheck.id.desc()).limit(1))


def off_policy(db: Session, project: Project) -> OffPolicy | None:
    check = latest(db, project, finished=True)
    if check is None or not check.result:
        return None
    figures = [ModelFigures(**item) for item in check.result["models"]]
    return OffPolicy(check, sorted(figures, key=lambda item: -item.mean))


def start(db: Session, project: Project, base_model: str, user: User | None) -> ReferenceCheck:
    """Raises ConflictError while one is on its way. The caller has checked that the model is there."""
    running = latest(db, project)
    if running is not None and running.status in OPEN:
        raise ConflictError("A check is on its way already.", remedy="Wait for it to end.")
    check = ReferenceCheck(project_id=project.id, base_model=base_model, created_by=user.id if user else None)
    db.add(check)
    db.flush()
    audit.record(
        db, "reference_check.started", project_id=project.id, user_id=check.created_by, subject=base_model, id=check.id
    )
    enqueue(db, TASK, check.id, queue=QUEUE_TRAIN)
    return check


def _lease_end() -> datetime:
    return utcnow() + timedelta(seconds=get_settings().lease_seconds)


def claim(db: Session, check_id: int) -> ReferenceCheck | None:
    """The check, now ours; None when it is over, or somebody else's."""
    lapsed = and_(ReferenceCheck.status == "running", ReferenceCheck.lease_until < utcnow())
    claimed = db.scalar(
        update(ReferenceCheck)
        .where(ReferenceCheck.id == check_id, or_(ReferenceCheck.status == "queued", lapsed))
        .values(status="running", attempt=ReferenceCheck.attempt + 1, lease_until=_lease_end(), error=None)
        .returning(ReferenceCheck.id)
    )
    return db.get(ReferenceCheck, claimed, populate_existing=True) if claimed is not None else None


def beat(db: Session, check_id: int, attempt: int) -> bool:
    """Keep the lease; False when it was lost."""
    return _write(db, check_id, attempt, {"lease_until": _lease_end()})


def finish(db: Session, check_id: int, attempt: int, *, result: dict[str, Any] | None = None, error: str = "") -> bool:
    """False when the lease was lost: then another worker's result counts."""
    values: dict[str, Any] = {"status": "failed" if error else "succeeded", "error": error or None, "result": result}
    return _write(db, check_id, attempt, values | {"finished_at": utcnow(), "lease_until": None})


def release(db: Session, check_id: int, attempt: int) -> None:
    """Back into the queue: this worker is being stopped. It does not count as a try."""
    values = {"status": "queued", "attempt": ReferenceCheck.attempt - 1, "lease_until": None}
    if _write(db, check_id, attempt, values):
        enqueue(db, TASK, check_id, queue=QUEUE_TRAIN)


def _write(db: Session, check_id: int, attempt: int, values: dict[str, Any]) -> bool:
    mine = (ReferenceCheck.id == check_id, ReferenceCheck.status == "running", ReferenceCheck.attempt == attempt)
    return db.scalar(update(ReferenceCheck).where(*mine).values(**values).returning(ReferenceCheck.id)) is not None


def requeue_stale(db: Session) -> list[int]:
    """Ring again for checks that nobody works on; returns their ids. One lost MAX_TRIES times has failed."""
    now = utcnow()
    waited = now - timedelta(seconds=get_settings().lease_seconds)
    unheard = and_(
        ReferenceCheck.status == "queued",
        or_(
            ReferenceCheck.lease_until < now,
            and_(ReferenceCheck.lease_until.is_(None), ReferenceCheck.created_at < waited),
        ),
    )
    lapsed = and_(ReferenceCheck.status == "running", ReferenceCheck.lease_until < now)
    rung = []
    query = select(ReferenceCheck).where(or_(unheard, lapsed)).with_for_update(skip_locked=True)
    for check in db.scalars(query.execution_options(populate_existing=True)).all():
        if check.status == "running" and check.attempt >= MAX_TRIES:
            check.status, check.finished_at, check.lease_until = "failed", now, None
            check.error = f"The worker was lost {MAX_TRIES} times during this; it may lack memory."
            continue
        check.status, check.lease_until = "queued", _lease_end()
        enqueue(db, TASK, check.id, queue=QUEUE_TRAIN)
        rung.append(check.id)
    db.flush()
    return rung
