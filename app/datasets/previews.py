"""What a label rule would keep and hold back, before it is saved."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.datasets.labels import DROPPED, KEPT, judged, verdicts
from app.datasets.rules import LabelRule
from app.models import Project

WORDS = {
    "ties": "ties",
    "conflicts": "conflicts between copies",
    "duplicates": "duplicates",
    "few_votes": "too few votes",
    "split_votes": "votes that differ too much",
    "left_out": "only raters who are left out",
    "over_cap": "one rater’s beyond the cap",  # noqa: RUF001 -- a real apostrophe
}


@dataclass(frozen=True, slots=True)
class Outcome:
    desirable: int
    undesirable: int
    dropped: dict[str, int]
    adjudicated: int

    @property
    def kept(self) -> int:
        return self.desirable + self.undesirable

    @property
    def held_back(self) -> int:
        return sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class Preview:
    now: Outcome
    then: Outcome

    @property
    def clauses(self) -> list[tuple[str, int, int]]:
        """(what is held back, now, then) of every clause that holds something back."""
        names = [name for name in WORDS if name in self.now.dropped or name in self.then.dropped]
        return [(WORDS[name], self.now.dropped.get(name, 0), self.then.dropped.get(name, 0)) for name in names]


def preview(db: Session, project: Project, now: LabelRule, then: LabelRule) -> Preview:
    first = outcome_of(db, project, now)
    return Preview(first, first if then == now else outcome_of(db, project, then))


def outcome_of(db: Session, project: Project, rule: LabelRule) -> Outcome:
    rows = judged(verdicts(project, rule), project, rule)
    query = select(rows.c.status, rows.c.label, rows.c.adjudicated, func.count().label("n"))
    classes, dropped, adjudicated = {True: 0, False: 0}, dict.fromkeys(DROPPED.values(), 0), 0
    for row in db.execute(query.group_by(rows.c.status, rows.c.label, rows.c.adjudicated)):
        if row.status == KEPT:
            classes[row.label] += row.n
            adjudicated += row.n * row.adjudicated
        else:
            dropped[DROPPED[row.status]] += row.n
    held = {name: count for name, count in dropped.items() if count}
    return Outcome(classes[True], classes[False], held, adjudicated)
