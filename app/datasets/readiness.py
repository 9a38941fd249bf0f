"""Is this data fit for KTO? Figures, class weights, and checks that each say what to do."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.datasets.checks import Check, all_checks
from app.datasets.collection import Collection, collection
from app.datasets.facts import ClassCount, Facts, gather
from app.datasets.lengths import Lengths, length_table
from app.datasets.reference import OffPolicy, off_policy
from app.datasets.rules import LabelRule, load_rule
from app.models import Project
from worker.alignment.weights import HIGH, LOW, ClassWeights, advised_weights


@dataclass(frozen=True, slots=True)
class Readiness:
    facts: Facts
    lengths: Lengths
    weights: ClassWeights
    weights_band: str
    """The range of the upweighted class that keeps the ratio in the advised band, in words."""
    checks: list[Check]
    rule: LabelRule
    collection: Collection
    off_policy: OffPolicy | None
    """The last finished reference check."""

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
    labels = facts.labels
    collected, off = collection(db, project), off_policy(db, project)
    return Readiness(
        facts=facts,
        lengths=lengths,
        weights=advised_weights(labels.desirable, labels.undesirable),
        weights_band=weights_band(labels.desirable, labels.undesirable),
        checks=all_checks(facts, lengths, collected, off, f"/p/{project.slug}"),
        rule=load_rule(project),
        collection=collected,
        off_policy=off,
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
