"""Is this data fit for KTO? Figures, class weights, and checks that each say what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy.orm import Session

from app.datasets.facts import ClassCount, Facts, gather
from app.datasets.freeze import MIN_LABELS
from app.models import Project
from worker.alignment.weights import HIGH, LOW, ClassWeights, advised_weights

CheckState = Literal["ok", "warn", "error"]
FEW_LABELS = 200
FEW_HELD_OUT = 50
LENGTH_SKEW = 0.25
MANY_CUT = 0.05
NUM_BINS = 20


@dataclass(frozen=True, slots=True)
class Check:
    state: CheckState
    text: str
    remedy: str = ""
    url: str = ""
    """Where it can be mended, or its rows."""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Characters per completion and class."""

    edges: list[int]
    desirable: list[int]
    undesirable: list[int]
    median_desirable: int | None
    median_undesirable: int | None

    @property
    def skew(self) -> float | None:
        """How much longer undesirable completions are: 0.4 = 40 % longer, -0.2 = 20 % shorter."""
        if not self.median_desirable or self.median_undesirable is None:
            return None
        return self.median_undesirable / self.median_desirable - 1


@dataclass(frozen=True, slots=True)
class Readiness:
    facts: Facts
    lengths: Lengths
    weights: ClassWeights
    weights_band: str
    """The range of the upweighted class that keeps the ratio in the advised band, in words."""
    checks: list[Check]

    @property
    def errors(self) -> list[Check]:
        return [check for check in self.checks if check.state == "error"]

    @property
    def warnings(self) -> list[Check]:
        return [check for check in self.checks if check.state == "warn"]

    @property
    def can_freeze(self) -> bool:
        return not self.errors

    @property
    def ratio(self) -> float | None:
        """Desirable labels per undesirable one."""
        labels = self.facts.labels
        return labels.desirable / labels.undesirable if labels.undesirable else None

    @property
    def categories(self) -> list[ClassCount]:
        """Named ones only."""
        return [item for item in self.facts.by_category if item.name is not None]

    @property
    def sentence(self) -> str:
        if self.errors:
            return "Not fit for KTO yet."
        if not self.warnings:
            return "Fit for KTO."
        count = len(self.warnings)
        return f"Fit for KTO, with {count} {'thing' if count == 1 else 'things'} to know."


def readiness(db: Session, project: Project) -> Readiness:
    facts = gather(db, project)
    lengths = length_table(facts.lengths)
    base = f"/p/{project.slug}"
    labels = facts.labels
    return Readiness(
        facts=facts,
        lengths=lengths,
        weights=advised_weights(labels.desirable, labels.undesirable),
        weights_band=weights_band(labels.desirable, labels.undesirable),
        checks=sorted(
            [
                *_class_checks(facts, base),
                *_split_checks(facts, base),
                *_balance_checks(facts, base),
                *_content_checks(facts, lengths, base),
            ],
            key=lambda check: ("error", "warn", "ok").index(check.state),
        ),
    )


def weights_band(num_desirable: int, num_undesirable: int) -> str:
    """In words, desirable first: weights 1.00 and 1.46 to 1.94."""
    if not num_desirable or not num_undesirable:
        return "no weights with one class only"
    ratio = num_desirable / num_undesirable
    if ratio < LOW:
        return f"weights {LOW / ratio:.2f} to {HIGH / ratio:.2f} and 1.00"
    if ratio > HIGH:
        return f"weights 1.00 and {ratio / HIGH:.2f} to {ratio / LOW:.2f}"
    return "weights 1.00 and 1.00"


def length_table(rows: list[tuple[bool, int, int]]) -> Lengths:
    """``rows``: (label, characters, count) sorted by length. Bins are equally wide; the last one takes the longest 2 %."""
    top = _quantile([(length, count) for _, length, count in rows], 0.98) or NUM_BINS
    width = max(-(-top // NUM_BINS), 1)
    step = 10 ** max(len(str(width)) - 2, 0)
    width = -(-width // step) * step
    bins = {True: [0] * NUM_BINS, False: [0] * NUM_BINS}
    for label, length, count in rows:
        bins[label][min(length // width, NUM_BINS - 1)] += count
    medians = {
        side: _quantile([(length, count) for label, length, count in rows if label is side], 0.5)
        for side in (True, False)
    }
    edges = [width * i for i in range(NUM_BINS + 1)]
    return Lengths(edges, bins[True], bins[False], medians[True], medians[False])


def _quantile(sorted_counts: list[tuple[int, int]], share: float) -> int | None:
    """The smallest value with at least ``share`` of the counts at or below it."""
    total = sum(count for _, count in sorted_counts)
    seen = 0
    for value, count in sorted_counts:
        seen += count
        if seen >= share * total:
            return value
    return None


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _class_checks(facts: Facts, base: str) -> list[Check]:
    labels = facts.labels
    if not labels.total:
        return [Check("error", "There are no labels", "Import a file or rate some completions.", f"{base}/sources")]
    if labels.one_sided:
        only, other = ("desirable", "undesirable") if labels.desirable else ("undesirable", "desirable")
        return [Check("error", f"All labels are {only}", f"Collect some {other} ratings.", f"{base}/annotate")]
    checks = [Check("ok", "Both classes are there")]
    if labels.total < MIN_LABELS:
        text = f"{_count(labels.total, 'label')}, at least {MIN_LABELS} are needed"
        checks.append(Check("error", text, "Rate or import more completions.", f"{base}/annotate"))
    elif labels.total < FEW_LABELS:
        text = f"{_count(labels.total, 'label')}: a run learns little from fewer than {FEW_LABELS}"
        checks.append(Check("warn", text, "Rate or import more completions.", f"{base}/annotate"))
    ratio = labels.desirable / labels.undesirable
    if not 1 / 20 <= ratio <= 20:
        rare = "undesirable" if ratio > 1 else "desirable"
        checks.append(
            Check("warn", f"Few {rare} labels: 1 in {max(ratio, 1 / ratio) + 1:.0f}", "Weights alone mend this badly.")
        )
    return checks


def _split_checks(facts: Facts, base: str) -> list[Check]:
    if not facts.labels.total:
        return []
    train, dev, test = (facts.by_side[side] for side in ("train", "dev", "test"))
    checks = [Check("ok", "No conversation on two sides of the split")]
    more = "Collect ratings on more conversations: one in ten goes to each held-out split."
    if not dev.total:
        checks.append(Check("error", "No labels in the dev split", more, f"{base}/annotate"))
    elif dev.total < FEW_HELD_OUT or test.total < FEW_HELD_OUT:
        checks.append(Check("warn", f"Held-out splits are small: dev {dev.total}, test {test.total}", more))
    else:
        checks.append(Check("ok", f"Held out: dev {dev.total:,}, test {test.total:,}"))
    if train.one_sided and not facts.labels.one_sided:
        checks.append(Check("error", "The train split has one class only", more, f"{base}/annotate"))
    if facts.straddling_prompts:
        text = f"{_count(facts.straddling_prompts, 'prompt')} on two sides, in different conversations"
        checks.append(Check("warn", text, "Held-out figures may be a little too good."))
    return checks


def _balance_checks(facts: Facts, base: str) -> list[Check]:
    categories = [item for item in facts.by_category if item.name is not None]
    checks = []
    if categories:
        one_sided = sum(item.one_sided for item in categories)
        text = f"One class only in {one_sided:,} of {len(categories):,} categories"
        remedy = "Rate more completions of these categories."
        checks.append(
            Check("warn", text, remedy, f"{base}/annotate", "Annotate")
            if one_sided
            else Check("ok", f"Both classes in every category of {len(categories):,}")
        )
    one_sided_sources = [item.name for item in facts.by_source if item.one_sided]
    if one_sided_sources and not facts.labels.one_sided:
        text = f"One class only from {', '.join(str(name) for name in one_sided_sources[:3])}"
        checks.append(Check("warn", text, "The model may learn the source instead of the quality.", f"{base}/sources"))
    elif facts.by_source and not one_sided_sources:
        checks.append(Check("ok", "Both classes in every source"))
    if facts.raters > 1 and facts.largest_rater_share > 0.5:
        checks.append(
            Check(
                "warn", f"One rater gave {facts.largest_rater_share:.0%} of the ratings", "Ask others to rate as well."
            )
        )
    return checks


def _content_checks(facts: Facts, lengths: Lengths, base: str) -> list[Check]:
    checks = []
    if lengths.skew is not None and lengths.median_undesirable is not None:
        share = abs(lengths.skew)
        word = "longer" if lengths.skew > 0 else "shorter"
        checks.append(
            Check(
                "warn",
                f"Undesirable completions are {share:.0%} {word} than desirable ones".replace("%", "\u00a0%"),
                "Compare each checkpoint's AUC with the AUC of length alone.",
            )
            if share > LENGTH_SKEW
            else Check("ok", "Length is alike in both classes")
        )
    if facts.labels.total and facts.cut > MANY_CUT * facts.labels.total:
        text = f"{_count(facts.cut, 'completion')} cut at generation"
        checks.append(Check("warn", text, "They carry no end of turn; raise the app's token limit."))
    if facts.conflicts:
        checks.append(
            Check(
                "ok", f"{_count(facts.conflicts, 'conflict')} held back", url=f"{base}/completions", link="Completions"
            )
        )
    if facts.duplicates:
        checks.append(Check("ok", f"{_count(facts.duplicates, 'duplicate')} held back"))
    if facts.ties:
        checks.append(
            Check("ok", f"{_count(facts.ties, 'tie')} held back", "One more rating decides each.", f"{base}/annotate")
        )
    return checks
