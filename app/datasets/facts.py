"""Counts behind the readiness page: one statement over the judged labels, two over the ratings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, ScalarSelect, Select, and_, cast, extract, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.datasets.labels import CONFLICT, DROPPED, DUPLICATE, KEPT, TIE, judged, verdicts
from app.datasets.splits import SIDES
from app.feedback.raters_agreement import AgreementTable, agreement_table
from app.feedback.raters_names import rater_names
from app.feedback.raters_votes import vote_patterns
from app.models import Project, Rating

SHOWN_RATERS = 12


@dataclass(frozen=True, slots=True)
class ClassCount:
    """Labels of one source or category; ``name`` None: completions without a category."""

    name: str | None
    desirable: int
    undesirable: int

    @property
    def total(self) -> int:
        return self.desirable + self.undesirable

    @property
    def share(self) -> float:
        """Of desirable labels."""
        return self.desirable / self.total

    @property
    def one_sided(self) -> bool:
        return not self.desirable or not self.undesirable


@dataclass(frozen=True, slots=True)
class Arrival:
    source: str
    hours: list[int]
    """Ratings per hour of the last 24, oldest first."""
    last_at: datetime

    @property
    def total(self) -> int:
        return sum(self.hours)

    @property
    def state(self) -> str:
        """arriving, quiet, or silent: a source that delivered in most hours and then stopped for three."""
        if any(self.hours[-2:]):
            return "arriving"
        return "silent" if sum(bool(count) for count in self.hours[:-3]) >= 10 and not any(self.hours[-3:]) else "quiet"


@dataclass(frozen=True, slots=True)
class Facts:
    labels: ClassCount
    by_side: dict[str, ClassCount]
    by_source: list[ClassCount]
    by_category: list[ClassCount]
    by_model: list[ClassCount]
    by_rater: list[ClassCount]
    """The SHOWN_RATERS with most labels."""
    lengths: list[tuple[bool, int, int]]
    """(label, characters, count), sorted by length."""
    prompts: int
    prompts_with_both: int
    prompts_one_class: int
    """Several labels, all of one class."""
    paired_labels: int
    """Labels on prompts that have both classes: what DPO could use."""
    straddling_prompts: int
    """Same prompt text in conversations that lie on different sides of the split."""
    cut: int
    """Completions cut at generation (finish_reason ``length``)."""
    ties: int
    conflicts: int
    duplicates: int
    by_rule: dict[str, int]
    """What the label rule's own clauses hold back: few_votes, split_votes, left_out, over_cap."""
    adjudicated: int
    ratings: int
    raters: int
    largest_rater_share: float
    agreement: AgreementTable | None
    arrivals: list[Arrival]

    @property
    def held_back(self) -> int:
        return self.ties + self.conflicts + self.duplicates + sum(self.by_rule.values())


def gather(db: Session, project: Project) -> Facts:
    rows = judged(verdicts(project), project)
    kept = select(rows).where(rows.c.status == KEPT).cte("kept")
    labelled = (
        select(Rating.source, Rating.rater, kept.c.label, kept.c.completion_id)
        .join(kept, kept.c.completion_id == Rating.completion_id)
        .where(Rating.project_id == project.id, Rating.is_current)
        .cte("labelled")
    )
    parts = {
        "status": select(rows.c.status, func.count().label("n")).group_by(rows.c.status),
        "side": _by_label(kept, "side"),
        "category": _by_label(kept, "category"),
        "model": _by_label(kept, "model"),
        "length": select(kept.c.label, kept.c.length, func.count().label("n"))
        .group_by(kept.c.label, kept.c.length)
        .order_by(kept.c.length),
        "prompt": _prompts(kept),
        "cut": select(func.count().label("n")).where(kept.c.finish_reason == "length"),
        "adjudicated": select(func.count().label("n")).where(kept.c.adjudicated),
        "source": _by_label(
            select(labelled.c.source, labelled.c.label, labelled.c.completion_id).distinct().cte("per_source"), "source"
        ),
        "rater": _busiest(labelled),
    }
    listed = [_as_rows(query, name).label(name) for name, query in parts.items()]
    found = db.execute(select(*listed)).mappings().one()
    status = {row["status"]: row["n"] for row in found["status"]}
    sides = {row["name"]: _class_count(row) for row in found["side"]}
    prompts = found["prompt"][0]
    ratings, raters, largest = _raters(db, project)
    return Facts(
        labels=ClassCount(None, sum(s.desirable for s in sides.values()), sum(s.undesirable for s in sides.values())),
        by_side={side: sides.get(side, ClassCount(side, 0, 0)) for side in SIDES},
        by_source=sorted((_class_count(row) for row in found["source"]), key=lambda item: -item.total),
        by_category=sorted((_class_count(row) for row in found["category"]), key=lambda item: -item.total),
        by_model=sorted((_class_count(row) for row in found["model"]), key=lambda item: -item.total),
        by_rater=_named_raters(db, found["rater"]),
        lengths=[(row["label"], row["length"], row["n"]) for row in found["length"]],
        prompts=prompts["prompts"],
        prompts_with_both=prompts["with_both"],
        prompts_one_class=prompts["one_class"],
        paired_labels=prompts["paired"],
        straddling_prompts=prompts["straddling"],
        cut=found["cut"][0]["n"],
        ties=status.get(TIE, 0),
        conflicts=status.get(CONFLICT, 0),
        duplicates=status.get(DUPLICATE, 0),
        by_rule={
            name: status[key]
            for key, name in DROPPED.items()
            if key not in {TIE, CONFLICT, DUPLICATE} and key in status
        },
        adjudicated=found["adjudicated"][0]["n"],
        ratings=ratings,
        raters=raters,
        largest_rater_share=largest,
        agreement=agreement_table(vote_patterns(db, project.id)),
        arrivals=_arrivals(db, project),
    )


def _as_rows(query: Select[Any], name: str) -> ScalarSelect[Any]:
    """The rows of ``query`` as one JSON list, so that all parts share a single pass over the labels."""
    inner = query.subquery(f"part_{name}")
    listed = func.jsonb_agg(func.to_jsonb(inner.table_valued()))
    return select(func.coalesce(listed, cast(literal("[]"), JSONB))).scalar_subquery()


def _by_label(rows: Any, name: str) -> Select[Any]:
    column = rows.c[name].label("name")
    return select(
        column,
        func.count().filter(rows.c.label).label("desirable"),
        func.count().filter(~rows.c.label).label("undesirable"),
    ).group_by(column)


def _class_count(row: dict[str, Any]) -> ClassCount:
    return ClassCount(row["name"], row["desirable"], row["undesirable"])


def _busiest(labelled: Any) -> Select[Any]:
    return (
        select(
            labelled.c.source,
            labelled.c.rater,
            func.count().filter(labelled.c.label).label("desirable"),
            func.count().filter(~labelled.c.label).label("undesirable"),
        )
        .group_by(labelled.c.source, labelled.c.rater)
        .order_by(func.count().desc(), labelled.c.source, labelled.c.rater)
        .limit(SHOWN_RATERS)
    )


def _named_raters(db: Session, rows: list[dict[str, Any]]) -> list[ClassCount]:
    names = rater_names(db, [row["rater"] for row in rows])
    return [ClassCount(names.get(row["rater"], row["rater"]), row["desirable"], row["undesirable"]) for row in rows]


def _prompts(kept: Any) -> Select[Any]:
    per_prompt = (
        select(
            func.count().label("labels"),
            (func.bool_or(kept.c.label) & ~func.bool_and(kept.c.label)).label("both"),
            (func.min(kept.c.side) != func.max(kept.c.side)).label("straddles"),
        )
        .group_by(kept.c.prompt_key)
        .subquery("per_prompt")
    )
    return select(
        func.count().label("prompts"),
        func.count().filter(per_prompt.c.both).label("with_both"),
        func.count().filter(~per_prompt.c.both, per_prompt.c.labels > 1).label("one_class"),
        func.coalesce(func.sum(per_prompt.c.labels).filter(per_prompt.c.both), 0).label("paired"),
        func.count().filter(per_prompt.c.straddles).label("straddling"),
    )


def _raters(db: Session, project: Project) -> tuple[int, int, float]:
    """Current ratings, raters, and the share of the busiest rater."""
    per_rater = (
        select(func.count().label("n"))
        .where(Rating.project_id == project.id, Rating.is_current)
        .group_by(Rating.source, Rating.rater)
        .subquery()
    )
    total, raters, largest = db.execute(
        select(func.coalesce(func.sum(per_rater.c.n), 0), func.count(), func.max(per_rater.c.n))
    ).one()
    return int(total), raters, int(largest) / int(total) if total else 0.0


def _arrivals(db: Session, project: Project) -> list[Arrival]:
    now = utcnow()
    start = now - timedelta(hours=24)
    hour = cast(func.floor(extract("epoch", Rating.created_at - start) / 3600), Integer)
    query = (
        select(Rating.source, hour.label("hour"), func.count().label("n"), func.max(Rating.created_at).label("last"))
        .where(and_(Rating.project_id == project.id, Rating.created_at > start, Rating.created_at <= now))
        .group_by(Rating.source, "hour")
    )
    hours: dict[str, list[int]] = {}
    last: dict[str, datetime] = {}
    for source, number, count, newest in db.execute(query):
        hours.setdefault(source, [0] * 24)[min(int(number), 23)] += count
        last[source] = max(newest, last.get(source, newest))
    return [
        Arrival(source, hours[source], last[source]) for source in sorted(hours, key=lambda name: -sum(hours[name]))
    ]
