"""What to do next: at most five things, ordered by the harm of leaving them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.datasets.freeze import MIN_LABELS
from app.evaluations.queries import auc_of
from app.home.queries import Count, Labels, RecentRun
from app.models import ModelVersion, Run, Snapshot
from app.registry.gates import Gate, failed, summary_of
from app.web.formats import num, plural

MOST = 5
FRESH_SHARE = 0.2
"""A new snapshot is worth it once so many ratings arrived, as a share of the labels in the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the list is made from; one value per question."""

    labels: Labels
    snapshot: Snapshot | None
    ratings_since_snapshot: Count
    runs: list[RecentRun]
    open_run: Run | None
    worker_is_there: bool
    version: ModelVersion | None
    gates: list[Gate]
    production_number: int | None
    unversioned: RecentRun | None
    """The newest finished run with an evaluation and no version."""
    open_slots: Count


@dataclass(frozen=True, slots=True)
class Step:
    icon: str
    title: str
    text: str
    path: str
    """Below ``/p/{slug}``; from the root where it starts with ``//``."""
    permission: str
    tone: str = ""


def next_steps(facts: Facts, can: Callable[[str], bool]) -> list[Step]:
    """Only what the viewer may do."""
    return [step for step in _all(facts) if can(step.permission)][:MOST]


def _all(facts: Facts) -> Iterator[Step]:
    yield from _version(facts)
    yield from _trouble(facts)
    yield from _labels(facts)
    yield from _align(facts)
    if facts.open_slots:
        waiting = f"{facts.open_slots} {'verdict waits' if facts.open_slots.value == 1 else 'verdicts wait'}"
        yield Step("thumb-up", "Annotate", f"{waiting} in the queues.", "/annotate", "rating.create")


def _version(facts: Facts) -> Iterator[Step]:
    version = facts.version
    if version is None or (facts.production_number is not None and facts.production_number >= version.number):
        return
    tone = "bad" if failed(facts.gates) else ""
    text = f"{summary_of(facts.gates)}. It is not in production yet."
    yield Step("versions", f"Decide on v{version.number}", text, f"/versions/{version.number}", "version.promote", tone)


def _trouble(facts: Facts) -> Iterator[Step]:
    newest = facts.runs[0].run if facts.runs else None
    if newest is not None and newest.status == "failed":
        reason = (newest.failure_reason or "unknown").replace("_", " ")
        text = newest.failure_message or f"It ended with: {reason}."
        yield Step("activity", f"Look at {newest.name}", text, f"/runs/{newest.id}", "run.view", "bad")
    for run in (row.run for row in facts.runs if row.run.status == "paused"):
        text = run.failure_message or "A critical alarm paused it."
        yield Step("player-pause", f"Decide on {run.name}", text, f"/runs/{run.id}", "run.launch", "bad")
    if facts.open_run is not None and facts.open_run.status in {"queued", "interrupted"} and not facts.worker_is_there:
        text = f"{facts.open_run.name} waits, and no worker was heard of for two minutes."
        yield Step("cpu", "Start a worker", text, "//workers", "worker.view", "warn")


def _labels(facts: Facts) -> Iterator[Step]:
    labels = facts.labels
    if labels.total == 0:
        text = "There are no labels yet. Import a file or connect an app."
        yield Step("plug-connected", "Bring in feedback", text, "/sources", "source.view", "warn")
    elif not labels.desirable or not labels.undesirable:
        only, other = ("desirable", "undesirable") if labels.desirable else ("undesirable", "desirable")
        text = f"All {num(labels.total)} labels are {only}; KTO needs {other} ones too."
        yield Step("thumb-up", f"Collect {other} labels", text, "/sources", "source.view", "warn")
    elif labels.total < MIN_LABELS:
        text = f"{plural(labels.total, 'label')}; a snapshot needs {MIN_LABELS}."
        yield Step("thumb-up", "Collect more labels", text, "/sources", "source.view", "warn")


def _align(facts: Facts) -> Iterator[Step]:
    labels, snapshot = facts.labels, facts.snapshot
    fit = min(labels.desirable, labels.undesirable) > 0 and labels.total >= MIN_LABELS
    if snapshot is None:
        if fit:
            text = f"{num(labels.total)} labels are ready."
            yield Step("stack-2", "Freeze a snapshot", text, "/readiness", "snapshot.freeze")
        return
    used = any(row.run.snapshot_id == snapshot.id for row in facts.runs)
    if not used and facts.open_run is None:
        text = f"Snapshot {snapshot.content_hash[:8]} has not been trained on."
        yield Step("player-play", "Launch a run", text, "/runs/new", "run.launch")
    if facts.unversioned is not None and facts.unversioned.best is not None:
        run, best = facts.unversioned.run, facts.unversioned.best
        text = f"Its best checkpoint reaches AUC {num(auc_of(best)['value'], 3)} at step {num(best.step)}."
        yield Step("chart-dots", f"Judge {run.name}", text, f"/evaluations/{run.id}", "version.make")
    size = sum(
        part["desirable"] + part["undesirable"]
        for side in ("train", "dev", "test")
        if (part := snapshot.counts.get(side))
    )
    if fit and facts.ratings_since_snapshot.value >= max(FRESH_SHARE * size, 1):
        text = f"{facts.ratings_since_snapshot} ratings arrived since the last one."
        yield Step("stack-2", "Freeze a new snapshot", text, "/readiness", "snapshot.freeze")
