"""Categories by checkpoints: which figure, which categories in which order, and how they are laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Float, cast, select
from sqlalchemy.orm import Session

from app.models import Evaluation, EvaluationCategory
from app.web import svg
from app.web.formats import plural

Show = Literal["all", "open", "alarms"]
Order = Literal["effect", "name", "all-effect", "all-name"]
MetricKey = Literal[
    "similarity_normalised",
    "similarity_gated",
    "similarity",
    "distinct_k",
    "distinct_k_gated",
    "ead",
    "distinct_2",
    "self_bleu",
    "semantic",
    "loop_rate",
    "truncated_share",
    "refusal_share",
    "empty_share",
]

ORDERS: dict[Order, str] = {
    "effect": "By domain, by effect",
    "name": "By domain, by name",
    "all-effect": "All, by effect",
    "all-name": "All, by name",
}
NO_DOMAIN = "Categories"
CLOSED = "Closed-form"
WIDTH, LEFT = 1136, 56


@dataclass(frozen=True, slots=True)
class Metric:
    """One of DIVERSITY_KEYS as the heat map shows it."""

    word: str
    rises: bool = True
    """Up means more alike (or more failures); else down does."""
    per: float = 0.0
    """0: binned as a change of similarity is. Else relative to the reference's level, times this: a fall of the distinct answers
    by a fifth is as dark as a rise of similarity by 0.05."""
    ends: tuple[str, str] = ("More varied", "More alike")
    digits: int = 3


FAILURES = ("Fewer", "More")
METRICS: dict[MetricKey, Metric] = {
    "similarity_normalised": Metric("Similarity, gated"),
    "similarity_gated": Metric("ROUGE-L, gated"),
    "similarity": Metric("ROUGE-L, raw"),
    "distinct_k": Metric("Distinct answers", rises=False, per=4, digits=2),
    "distinct_k_gated": Metric("Distinct answers, gated", rises=False, per=4, digits=2),
    "ead": Metric("EAD", rises=False, per=2),
    "distinct_2": Metric("Distinct bigrams", rises=False, per=2),
    "self_bleu": Metric("Self-BLEU-4"),
    "semantic": Metric("Semantic similarity"),
    "loop_rate": Metric("Loops", ends=FAILURES),
    "truncated_share": Metric("Cut off", ends=FAILURES),
    "refusal_share": Metric("Refusals", ends=FAILURES),
    "empty_share": Metric("Empty", ends=FAILURES),
}


@dataclass(slots=True)
class Column:
    """One category at every checkpoint of the run; None where it was not sampled or not tested."""

    name: str
    domain: str
    open_ended: bool
    changes: list[float | None]
    q: list[float | None]
    alarm: bool = False
    """Raised at the checkpoint shown."""
    found: bool = True
    """By the search."""
    block: str = ""
    """Under which name it stands in the map."""

    @property
    def last(self) -> float | None:
        return next((change for change in reversed(self.changes) if change is not None), None)


@dataclass(frozen=True, slots=True)
class View:
    """What the address asks for."""

    metric: MetricKey
    show: Show = "all"
    order: Order = "effect"
    search: str = ""
    domain: str = ""


@dataclass(slots=True)
class Heat:
    """All columns of a run under one metric, in order, and those of them that the view keeps."""

    metric: Metric
    steps: list[int]
    columns: list[Column]
    kept: list[Column]
    scale: float
    """Change in the metric's own unit, up = more alike, that is binned as a change of similarity of 1."""
    closed_domains: int = 0
    bold: list[str] = field(default_factory=list)
    """Domains with an alarm of their own."""

    @property
    def num_open(self) -> int:
        return sum(column.open_ended for column in self.columns)

    def scaled(self, column: Column) -> tuple[float | None, ...]:
        """Values to bin."""
        return tuple(None if change is None else change / self.scale for change in column.changes)

    def drawn(self) -> list[svg.HeatCategory]:
        return [
            svg.HeatCategory(column.name, column.block, self.scaled(column), column.alarm, not column.found)
            for column in self.kept
        ]

    def picture(self) -> Any:
        what = f"Change of {self.metric.word[0].lower() + self.metric.word[1:] if self.metric.word != 'EAD' else 'EAD'}"
        return svg.heat_map(self.drawn(), self.steps, width=WIDTH, left=LEFT, bold=self.bold, what=what)

    def strip(self, column: Column, most: int = 13) -> Any:
        """The category's newest ``most`` checkpoints in cells."""
        values = self.scaled(column)[-most:]
        return svg.cell_strip(values, f"{column.name}: change at {plural(len(values), 'checkpoint')}")

    def cells(self) -> dict[str, Any]:
        """What the cursor tells, for ``static/js/evaluation.js``: places in the picture, names, figures by checkpoint."""
        layout = svg.heat_layout(self.drawn(), len(self.steps), width=WIDTH, left=LEFT)
        unit = 10**self.metric.digits

        def whole(figure: float | None, parts: int) -> int | None:
            return None if figure is None else round(figure * parts)

        rows = range(len(self.steps))
        return {
            "left": LEFT,
            "top": layout.top,
            "row": layout.row,
            "cell": layout.cell,
            "steps": self.steps,
            "digits": self.metric.digits,
            "blocks": [[block.domain, round(block.x, 3), len(block.columns)] for block in layout.blocks],
            "names": [column.name for column in self.kept],
            "alarms": [index for index, column in enumerate(self.kept) if column.alarm],
            "controls": [index for index, column in enumerate(self.kept) if not column.open_ended],
            "changes": [[whole(column.changes[row], unit) for column in self.kept] for row in rows],
            "q": [[whole(column.q[row], 1000) for column in self.kept] for row in rows],
        }


@dataclass(frozen=True, slots=True)
class Domain:
    """A row of the phone's map: the mean of its categories at the newest checkpoints."""

    name: str
    num_categories: int
    num_alarms: int
    values: tuple[float | None, ...]


def measured(evaluations: Sequence[Evaluation]) -> list[MetricKey]:
    """Metrics that the newest measured checkpoint has, in the order of METRICS."""
    newest = next((item.diversity for item in reversed(evaluations) if item.diversity), None)
    return [key for key in METRICS if key in (newest or {}).get("overall", {})]


def heat_of(
    db: Session, evaluations: Sequence[Evaluation], view: View, alarmed: set[str], alarmed_domains: set[str]
) -> Heat:
    """Read one figure of every category at every checkpoint (a row each, nothing else) and arrange it as the view says."""
    sampled = [item for item in evaluations if item.diversity]
    columns = _columns(db, sampled, view.metric)
    metric = METRICS[view.metric]
    level = abs((sampled[-1].diversity or {})["overall"][view.metric]["reference"]) if sampled else 0.0
    scale = (metric.per * level or 1.0) * (1 if metric.rises else -1)
    needle = view.search.casefold().strip()
    for column in columns:
        column.alarm = column.name in alarmed
        column.found = needle in column.name.casefold() or needle in column.domain.casefold()
    _arrange(columns, view.order, scale)
    kept = [
        column
        for column in columns
        if (view.show != "open" or column.open_ended)
        and (view.show != "alarms" or column.alarm)
        and (not view.domain or column.domain == view.domain)
    ]
    closed = {column.domain for column in columns} - {column.domain for column in columns if column.open_ended}
    return Heat(metric, [item.step for item in sampled], columns, kept, scale, len(closed), sorted(alarmed_domains))


def _columns(db: Session, sampled: Sequence[Evaluation], metric: MetricKey) -> list[Column]:
    places = {item.id: index for index, item in enumerate(sampled)}
    change = cast(EvaluationCategory.metrics[metric]["change"].astext, Float)
    found: dict[str, Column] = {}
    for evaluation_id, name, domain, open_ended, q, value in db.execute(
        select(
            EvaluationCategory.evaluation_id,
            EvaluationCategory.category,
            EvaluationCategory.domain,
            EvaluationCategory.open_ended,
            EvaluationCategory.q,
            change,
        ).where(EvaluationCategory.evaluation_id.in_(places))
    ):
        column = found.get(name)
        if column is None:
            empty: list[float | None] = [None] * len(places)
            column = found[name] = Column(name, domain or domain_of(name), open_ended, empty, [*empty])
        column.changes[places[evaluation_id]] = value
        column.q[places[evaluation_id]] = q
    return list(found.values())


def _arrange(columns: list[Column], order: Order, scale: float) -> None:
    """Open-ended domains first; domains by name, so that they stay where they are from run to run."""
    for column in columns:
        column.block = column.domain
        if order.startswith("all-"):
            column.block = "Open-ended" if column.open_ended else CLOSED
    open_blocks = {column.block for column in columns if column.open_ended}

    def key(column: Column) -> tuple[bool, str, bool, float, str]:
        effect = -(column.last or 0.0) / scale if order.endswith("effect") else 0.0
        return (column.block not in open_blocks, column.block, not column.open_ended, effect, column.name)

    columns.sort(key=key)


def domains_of(heat: Heat, num_steps: int = 8) -> list[Domain]:
    """Domains in the order of the map, by the mean change of their kept categories at the last ``num_steps`` checkpoints."""
    by_domain: dict[str, list[Column]] = {}
    for column in heat.kept:
        by_domain.setdefault(column.block, []).append(column)
    found = []
    for name, columns in by_domain.items():
        at_step = zip(*(heat.scaled(column)[-num_steps:] for column in columns), strict=True)
        known = ([value for value in values if value is not None] for values in at_step)
        means = tuple(sum(values) / len(values) if values else None for values in known)
        found.append(Domain(name, len(columns), sum(column.alarm for column in columns), means))
    return found


def domain_of(category: str) -> str:
    """``domain/name`` and ``domain: name`` are grouped by domain; a name without one forms no group of its own."""
    for mark in ("/", ":"):
        domain, found, rest = category.partition(mark)
        if found and domain.strip() and rest.strip():
            return domain.strip()
    return NO_DOMAIN


def most_affected(heat: Heat, limit: int) -> list[Column]:
    """Open-ended categories by their last change, the most alike first."""
    candidates = [column for column in heat.kept if column.open_ended and column.last is not None]
    candidates.sort(key=lambda column: (-(column.last or 0.0) / heat.scale, column.name))
    return candidates[:limit]
