"""What all pages of one run's evaluation share: its checkpoints, the one shown, the tabs with the count of alarms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import NotFoundError
from app.evaluations import alarms, queries
from app.evaluations.alarms import RunAlarm
from app.models import Evaluation, ModelVersion, Run

TABS = (
    ("", "Overview"),
    ("diversity", "Diversity"),
    ("comparison", "KTO against DPO"),
    ("safety", "Safety"),
    ("suites", "Suites"),
    ("completions", "Completions"),
)
"""Path under ``/p/{slug}/evaluations/{run}`` and word of each tab."""


@dataclass(frozen=True, slots=True)
class Frame:
    run: Run
    evaluations: list[Evaluation]
    """By step, one a checkpoint."""
    best: Evaluation | None
    """On the dev split."""
    shown: Evaluation | None
    tab: str
    chosen: bool = False
    """The address names the checkpoint."""
    alarms: list[RunAlarm] = field(default_factory=list)
    """Of the whole run, by weight."""
    versions: dict[int, int] = field(default_factory=dict)
    """Number of the version that was made of a checkpoint, by its id."""

    @property
    def candidate(self) -> Evaluation | None:
        """What a version would be made of: the checkpoint that was asked for, else the best, else the one shown."""
        return self.shown if self.chosen else self.best or self.shown

    @property
    def kept(self) -> list[Evaluation]:
        """Of checkpoints whose files are there: what can still be run."""
        return [item for item in self.evaluations if item.checkpoint.removed_at is None]

    @property
    def version(self) -> int | None:
        """Number of the candidate's version, where there is one."""
        return self.versions.get(self.candidate.checkpoint_id) if self.candidate else None

    @property
    def query(self) -> str:
        """What keeps the chosen checkpoint in an address of another tab."""
        return f"?step={self.shown.step}" if self.chosen and self.shown else ""

    @property
    def num_alarms(self) -> int:
        """Open ones that are more than a first sight."""
        return sum(item.counts for item in self.alarms)

    def tabs(self, slug: str) -> list[tuple[str, str, bool, str]]:
        """(word, address, current, count in words or "")."""
        root = f"/p/{slug}/evaluations/{self.run.id}"
        counted = alarms.counted(self.num_alarms) if self.num_alarms else ""
        return [
            (
                word,
                (f"{root}/{path}" if path else root) + self.query,
                path == self.tab,
                counted if path == "diversity" else "",
            )
            for path, word in TABS
        ]

    def context(self) -> dict[str, Any]:
        """Names that the templates of every tab may use."""
        return {
            "frame": self,
            "run": self.run,
            "evaluations": self.evaluations,
            "best": self.best,
            "shown": self.shown,
            "tab": self.tab,
        }


def frame_of(
    db: Session, project_id: int, run_id: int, tab: str, step: int | None = None, *, last: bool = False
) -> Frame:
    """The frame of a tab. Shown is the checkpoint at ``step``, else the best one (with ``last``: the newest), else the newest.

    Raises NotFoundError for a run of another project and for a step that was not evaluated.
    """
    run = queries.evaluated_run(db, project_id, run_id)
    evaluations = queries.evaluations_of(db, run)
    best = queries.best_of(evaluations)
    newest = evaluations[-1] if evaluations else None
    shown = newest if last else best or newest
    if step is not None:
        shown = next((item for item in evaluations if item.step == step), None)
        if shown is None:
            raise NotFoundError(f"Step {step:,} of {run.name} was not evaluated.")
    made = select(ModelVersion.checkpoint_id, ModelVersion.number).where(
        ModelVersion.project_id == project_id, ModelVersion.run_id == run.id
    )
    versions = dict(db.execute(made).all())
    return Frame(run, evaluations, best, shown, tab, step is not None, alarms.alarms_of_run(db, run), versions)
