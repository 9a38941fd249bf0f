"""What the diversity page shows: figures, map, table, samples and alarms of one run at one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import NotFoundError
from app.evaluations import heat as heats
from app.evaluations import words
from app.evaluations.alarms import COUNTED, raised_at
from app.evaluations.frame import Frame
from app.evaluations.heat import Column, Heat, View
from app.evaluations.samples import CategorySamples, samples_of
from app.evaluations.service import FULL
from app.models import EvalJob, Evaluation, EvaluationAlarm
from app.web.formats import num, pct, plural, signed

ROWS = 12
"""Of the table without a search."""
MOST_ROWS = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """The address of the page, field by field."""

    view: View
    step: int | None = None
    category: str = ""
    prompt: int | None = None
    at: int | None = None
    """Checkpoint of the samples, where it is not the page's."""

    def params(self) -> dict[str, Any]:
        """What an address must carry: fields that are not at their defaults."""
        fields = {
            "step": self.step,
            "metric": self.view.metric,
            "show": self.view.show if self.view.show != "all" else None,
            "order": self.view.order if self.view.order != "effect" else None,
            "q": self.view.search or None,
            "domain": self.view.domain or None,
            "category": self.category or None,
            "prompt": self.prompt,
            "at": self.at,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Address:
    """Links to the same page with something changed."""

    path: str
    params: dict[str, Any]

    def to(self, **changes: Any) -> str:
        params = {name: value for name, value in {**self.params, **changes}.items() if value not in {None, ""}}
        return f"{self.path}?{urlencode(params)}" if params else self.path

    def query(self, *without: str) -> str:
        return urlencode(
            {name: value for name, value in self.params.items() if value is not None and name not in without}
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A category in the table, at the checkpoint shown."""

    column: Column
    change: float | None
    q: float | None
    level: str
    """critical, alarm, watch or ""."""


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    note: str
    rows: list[Row]
    more: int = 0


def page_of_run(db: Session, frame: Frame, asked: Asked, address: Address) -> dict[str, Any]:
    """Names for ``evaluations/diversity.html``. ``frame.shown`` has a diversity.

    Raises NotFoundError for a metric, domain or category that the run does not have.
    """
    shown = frame.shown
    assert shown is not None
    assert shown.diversity is not None
    raised = raised_at(db, shown)
    heat = heat_at(db, frame, asked.view, raised)
    if asked.category and all(column.name != asked.category for column in heat.columns):
        raise NotFoundError(f"{frame.run.name} has no category of the name {asked.category}.")
    table = table_of(heat, shown, asked.view, raised)
    samples = chosen_samples(db, frame, asked, table.rows[0].column.name if table.rows else "")
    levels = [(row.kind, row.level) for row in raised]
    critical = [row for row in raised if row.level == "critical"]
    return {
        "heat": heat,
        "domains": heats.domains_of(heat),
        "table": table,
        "samples": samples,
        "sample_steps": sample_steps(frame, samples),
        "asked": asked,
        "address": address,
        "figures": figures(shown.diversity, raised, heat),
        "meanings": meanings(db, shown),
        "sentence": words.collapse_sentence(shown.diversity, levels),
        "critical": [row for row in critical if not row.resolution],
        "is_alarmed": any(row.level in COUNTED for row in raised),
        "num_raised": sum(row.kind == "category" and row.level in COUNTED for row in raised),
        "metrics": [(key, heats.METRICS[key].word) for key in heats.measured(frame.evaluations)],
        "orders": list(heats.ORDERS.items()),
    }


def meanings(db: Session, shown: Evaluation) -> str:
    """How alike the samples are in meaning, and what compared them; or why a full evaluation could not. "" where none was asked."""
    asked = select(EvalJob.result["semantic"].astext).where(
        EvalJob.project_id == shown.project_id, EvalJob.checkpoint_id == shown.checkpoint_id, EvalJob.kind == FULL
    )
    told = db.scalar(asked.order_by(EvalJob.id.desc()).limit(1)) if shown.kind == FULL else ""
    found = (shown.diversity or {}).get("overall", {}).get("semantic")
    if found is None:
        return f"Meanings were not compared. {told}" if told else ""
    bounds = "" if found["low"] is None else f" ({signed(found['low'])} to {signed(found['high'])})"
    both = f"{num(found['reference'], 3)} to {num(found['policy'], 3)}, {signed(found['change'])}{bounds}"
    return f"Similarity in meaning (cosine): {both}. {told or ''}".strip()


def heat_at(db: Session, frame: Frame, view: View, raised: Sequence[EvaluationAlarm]) -> Heat:
    if view.metric not in heats.measured(frame.evaluations):
        raise NotFoundError(f"{heats.METRICS[view.metric].word} was not measured for {frame.run.name}.")
    counted = [row for row in raised if row.level in COUNTED]
    categories = {row.subject for row in counted if row.kind == "category"}
    domains = {row.subject for row in counted if row.kind == "domain"}
    heat = heats.heat_of(db, frame.evaluations, view, categories, domains)
    if view.domain and not heat.kept and all(column.domain != view.domain for column in heat.columns):
        raise NotFoundError(f"{frame.run.name} has no domain of the name {view.domain}.")
    return heat


def table_of(heat: Heat, shown: Evaluation, view: View, raised: Sequence[EvaluationAlarm]) -> Table:
    """What a search or a domain asks for; else the alarmed categories; else the largest changes, told as no alarm."""
    place = heat.steps.index(shown.step)
    level_of = {row.subject: row.level for row in raised if row.kind == "category"}

    def rows(columns: Sequence[Column]) -> list[Row]:
        return [Row(c, c.changes[place], c.q[place], level_of.get(c.name, "")) for c in columns]

    def by_effect(columns: Sequence[Column]) -> list[Column]:
        known = [column for column in columns if column.changes[place] is not None]
        return sorted(known, key=lambda column: (-(column.changes[place] or 0.0) / heat.scale, column.name))

    if view.search.strip():
        found = by_effect([column for column in heat.kept if column.found])
        note = plural(len(found), "category", "categories")
        return Table(f"Found by “{view.search.strip()}”", note, rows(found[:MOST_ROWS]), len(found) - MOST_ROWS)
    if view.domain:
        return Table(view.domain, plural(len(heat.kept), "category", "categories"), rows(by_effect(heat.kept)))
    alarmed = by_effect([column for column in heat.kept if column.name in level_of])
    if any(column.alarm for column in alarmed):
        return Table("Less varied than the reference", "sorted by effect", rows(alarmed))
    most = by_effect([column for column in heat.kept if column.open_ended])
    return Table("Largest changes", "none is an alarm", rows(most[:ROWS]))


def chosen_samples(db: Session, frame: Frame, asked: Asked, first: str) -> CategorySamples | None:
    """Of the category in the address, else of the first one in the table. Raises NotFoundError for what does not exist."""
    step = asked.at if asked.at is not None else frame.shown.step if frame.shown else None
    evaluation = next((item for item in frame.evaluations if item.step == step), None)
    if evaluation is None:
        raise NotFoundError(f"Step {step} of {frame.run.name} was not evaluated.")
    limit = frame.run.config.get("evaluation", {}).get("word_limit", 100)
    found = samples_of(db, evaluation, asked.category or first, asked.prompt, limit)
    if found is None and (asked.prompt is not None):
        raise NotFoundError(f"{asked.category} has no prompt {asked.prompt} at step {evaluation.step:,}.")
    return found


def sample_steps(frame: Frame, samples: CategorySamples | None) -> list[int]:
    """Checkpoints to choose the samples from: the one shown, the one before it, and the one they are from."""
    if frame.shown is None or samples is None:
        return []
    steps = [item.step for item in frame.evaluations if item.diversity and item.step <= frame.shown.step]
    return sorted({*steps[-2:], samples.step})


def figures(diversity: dict[str, Any], raised: Sequence[EvaluationAlarm], heat: Heat) -> list[dict[str, Any]]:
    """The four figures, as ``kpis`` takes them."""
    key, change = words.main_change(diversity)
    bounds = "no interval" if change["low"] is None else f"{signed(change['low'])} to {signed(change['high'])}"
    seen = diversity.get("detectable_change")
    power = words.power_words(diversity.get("category_power"))
    return [
        {
            "label": "Similarity against reference" if key != "similarity" else "Similarity against reference, raw",
            "value": signed(change["change"]),
            "detail": f"{bounds}, alarm at {signed(words.MARGIN)}",
        },
        categories_figure(diversity, raised, heat),
        {
            "label": "Critical alarms",
            "value": num(sum(row.level == "critical" for row in raised)),
            "detail": sentinels(diversity["overall"]),
        },
        {
            "label": "What we could have seen",
            "value": signed(seen) if seen is not None else "Not known",
            "unit": "overall" if seen is not None else "",
            "word": seen is None,
            "detail": power,
        },
    ]


def categories_figure(diversity: dict[str, Any], raised: Sequence[EvaluationAlarm], heat: Heat) -> dict[str, Any]:
    """How many categories are less varied; not known where the test would hardly see a collapse."""
    label = "Categories less varied"
    tested = diversity.get("num_categories_tested", 0)
    levels = [row.level for row in raised if row.kind == "category"]
    alarmed, watched = sum(level in COUNTED for level in levels), levels.count("watch")
    power = diversity.get("category_power")
    if not tested:
        return {"label": label, "value": "Not tested", "word": True, "detail": f"{num(heat.num_open)} open-ended"}
    of = f"of {num(tested)} {'open-ended' if tested == heat.num_open else 'tested'}"
    if not alarmed and (power is None or power < words.ENOUGH_POWER):
        return {
            "label": label,
            "value": "Not known",
            "word": True,
            "detail": f"too few samples, {of.removeprefix('of ')}",
        }
    first = f", {num(watched)} more at this one only" if watched else ""
    return {"label": label, "value": num(alarmed), "unit": of, "detail": f"q < 0.05 at two checkpoints{first}"}


def sentinels(overall: dict[str, Any]) -> str:
    """Loops, cut-off answers, refusals and empty answers of the policy, refusals against the reference."""
    parts = [
        f"{word} {pct(overall[key]['policy'])}"
        for key, word in (("loop_rate", "loops"), ("truncated_share", "cut off"))
        if key in overall
    ]
    if "refusal_share" in overall:
        parts.append(f"refusals {signed(overall['refusal_share']['change'] * 100, 1)}")
    if overall.get("empty_share", {}).get("policy"):
        parts.append(f"empty {pct(overall['empty_share']['policy'])}")
    return ", ".join(parts)
