"""A project at a glance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from app.datasets.service import latest_snapshot
from app.home import queries
from app.home.next_steps import Facts, Step, next_steps
from app.home.queries import Annotator, Count, Labels, RecentRun
from app.models import Alias, Evaluation, ModelVersion, Project, Run, Snapshot
from app.registry.evidence import evidence_of, gates_of_version
from app.registry.gates import Gate
from app.registry.service import latest_version, production
from app.web.svg import Day


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    now: datetime
    days: list[Day]
    labels: Labels
    snapshot: Snapshot | None
    runs: list[RecentRun]
    open_run: Run | None
    version: ModelVersion | None
    gates: list[Gate]
    holder: Alias | None
    served: Evaluation | None
    """Of the version in production."""
    annotators: list[Annotator]
    open_slots: Count
    steps: list[Step]

    @property
    def is_new(self) -> bool:
        """The loop has not been round once: the strip shows the first steps instead."""
        return not self.runs


def home_of(db: Session, project: Project, can: Callable[[str], bool], now: datetime) -> Home:
    labels = queries.label_balance(db, project)
    snapshot = latest_snapshot(db, project)
    runs = queries.recent_runs(db, project)
    open_run = queries.open_run(db, project)
    version = latest_version(db, project.id)
    gates = gates_of_version(db, version)
    holder = production(db, project.id)
    open_slots = queries.open_slots(db, project)
    facts = Facts(
        labels=labels,
        snapshot=snapshot,
        ratings_since_snapshot=queries.ratings_since(db, project, snapshot) if snapshot else Count(0),
        runs=runs,
        open_run=open_run,
        worker_is_there=queries.worker_is_there(db, now),
        version=version,
        gates=gates,
        production_number=holder.version.number if holder else None,
        unversioned=_unversioned(db, runs),
        open_slots=open_slots,
    )
    return Home(
        now=now,
        days=queries.ratings_per_day(db, project, now),
        labels=labels,
        snapshot=snapshot,
        runs=runs,
        open_run=open_run,
        version=version,
        gates=gates,
        holder=holder,
        served=evidence_of(db, holder.version).evaluation if holder else None,
        annotators=queries.annotating_now(db, project, now),
        open_slots=open_slots,
        steps=next_steps(facts, can),
    )


def _unversioned(db: Session, runs: list[RecentRun]) -> RecentRun | None:
    newest = next((row for row in runs if row.run.status == "succeeded" and row.best is not None), None)
    return newest if newest is not None and not queries.has_version(db, newest.run) else None
