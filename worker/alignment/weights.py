"""Class weights from the data, as the KTO authors advise.

The paper (arXiv 2402.01306, section 4) asks for (desirable_weight * n_D) / (undesirable_weight * n_U) in [1, 3/2]; TRL's
documentation for [1, 4/3]. The default target is [1, 4/3], inside both. Only the rarer class is upweighted.
A run that sets one weight gets 1 for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.alignment.config import AlignmentConfig

LOW, HIGH = 1.0, 4.0 / 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassWeights:
    desirable: float
    undesirable: float
    ratio: float | None
    """desirable * n_D / (undesirable * n_U); None where a class is empty."""
    within_advice: bool


def weight_ratio(num_desirable: int, num_undesirable: int, desirable: float, undesirable: float) -> float | None:
    """(desirable * n_D) / (undesirable * n_U), None where a class is empty."""
    if num_desirable == 0 or num_undesirable == 0:
        return None
    return desirable * num_desirable / (undesirable * num_undesirable)


def within_advice(ratio: float | None) -> bool:
    return ratio is not None and LOW - 1e-3 <= ratio <= HIGH + 1e-3


def advised_weights(num_desirable: int, num_undesirable: int) -> ClassWeights:
    """Smallest upweighting of the rarer class that brings the ratio into [1, 4/3]; both 1.0 where a class is empty.

    Rounded to three digits towards the inside of the band.
    """
    desirable = undesirable = 1.0
    ratio = weight_ratio(num_desirable, num_undesirable, 1.0, 1.0)
    if ratio is not None and ratio < LOW:
        desirable = -(-1000 * LOW * num_undesirable // num_desirable) / 1000
    elif ratio is not None and ratio > HIGH:
        undesirable = -(-1000 * num_desirable // (HIGH * num_undesirable)) / 1000
    ratio = weight_ratio(num_desirable, num_undesirable, desirable, undesirable)
    return ClassWeights(desirable=desirable, undesirable=undesirable, ratio=ratio, within_advice=within_advice(ratio))


def resolve_weights(config: AlignmentConfig, labels: Sequence[bool]) -> ClassWeights:
    """What a run trains with. Both settings left out: advised from the training rows; one left out: that one is 1.

    Both 1 where a class is empty (a weight would only scale the learning rate) and for dpo and sft, whose losses have
    no class weights.
    """
    num_desirable = sum(labels)
    num_undesirable = len(labels) - num_desirable
    given = (config.desirable_weight, config.undesirable_weight)
    if given == (None, None):
        advised = advised_weights(num_desirable, num_undesirable)
        desirable, undesirable = advised.desirable, advised.undesirable
    else:
        desirable, undesirable = (1.0 if weight is None else weight for weight in given)
    if config.objective in {"dpo", "sft"} or min(num_desirable, num_undesirable) == 0:
        desirable = undesirable = 1.0
    ratio = weight_ratio(num_desirable, num_undesirable, desirable, undesirable)
    return ClassWeights(desirable=desirable, undesirable=undesirable, ratio=ratio, within_advice=within_advice(ratio))
