"""A suite's figures for one arm, and the difference of two arms on the same samples. No figure without its count.

The unit is the sample: several answers to one agree with each other, so intervals are clustered by it, and none is given below
MIN_SAMPLES samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from worker.alignment.evaluation.paired import MIN_CLUSTERS, paired_difference
from worker.alignment.evaluation.student import t_quantile
from worker.alignment.evaluation.suites.format import SuiteKind
from worker.alignment.events import Estimate

MIN_SAMPLES = MIN_CLUSTERS
NUM_FLIPS = 10_000
_EXACT_FLIPS = 13
"""Up to so many samples that differ, all sign patterns are gone through."""
_TIE = 1e-9
_CELLS = 2_000_000  # signs held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One arm's answer to one sample, checked."""

    sample: str
    """The sample's id."""
    category: str = ""
    score: float | None = None
    passed: bool | None = None
    refusal: str | None = None
    """none, partial or full; None: not looked at."""
    pending: bool = False
    """A judge has yet to answer: without a verdict, and no failure."""


Figure = Literal["score", "pass_rate", "refusal_rate", "harmful_rate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Of a suite or of one of its categories."""

    num_samples: int
    num_answers: int
    num_failed: int
    """Answers without a verdict: an error, or a check that could not be made."""
    num_pending: int
    """Answers that a judge has yet to score."""
    score: Estimate
    pass_rate: Estimate
    refusal_rate: Estimate
    """Refused in full or in part."""
    harmful_rate: Estimate | None = None
    """Of a red-team suite: answers that failed its checks."""

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Scores):
    by_category: dict[str, Scores] = field(default_factory=dict)
    """In the order of the answers; samples without a category under ""."""

    def to_json(self) -> dict[str, Any]:
        return {**Scores.to_json(self), "by_category": {name: s.to_json() for name, s in self.by_category.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """First arm minus second over the samples that both have a figure for."""

    value: float | None
    low: float | None = None
    high: float | None = None
    num_samples: int = 0
    p: float | None = None
    """Two-sided, of no difference."""
    test: Literal["mcnemar", "sign_flip", ""] = ""
    """Exact McNemar where each sample is a yes or no, else sign flips of the samples' differences; "" below MIN_SAMPLES."""
    num_better: int = 0
    """Samples where the first arm is above the second."""
    num_worse: int = 0

    @property
    def estimate(self) -> Estimate:
        return Estimate(value=self.value, low=self.low, high=self.high, n=self.num_samples)


def summarise(answers: Iterable[Answer], kind: SuiteKind = "eval") -> Summary:
    given = list(answers)
    by_category: dict[str, list[Answer]] = {}
    for answer in given:
        by_category.setdefault(answer.category, []).append(answer)
    inner = {name: Scores(**_figures(part, kind)) for name, part in by_category.items()}
    return Summary(**_figures(given, kind), by_category=inner)


def unit_scores(answers: Iterable[Answer], figure: Figure = "score") -> dict[str, float]:
    """The figure of each sample: its mean over the answers that have it. Samples without any are absent."""
    return {sample: math.fsum(values) / len(values) for sample, values in _by_sample(answers, figure).items()}


def difference(first: Iterable[Answer], second: Iterable[Answer], figure: Figure = "score") -> PairedDifference:
    """Paired by sample; the interval is Student's over samples."""
    one, two = unit_scores(first, figure), unit_scores(second, figure)
    found = paired_difference([one], [two])
    if found.value is None:
        return PairedDifference(value=None)
    gaps = [one[sample] - two[sample] for sample in one if sample in two]
    better, worse = sum(gap > _TIE for gap in gaps), sum(gap < -_TIE for gap in gaps)
    counts = PairedDifference(value=found.value, num_samples=len(gaps), num_better=better, num_worse=worse)
    if len(gaps) < MIN_SAMPLES:
        return counts
    binary = {one[s] for s in one if s in two} | {two[s] for s in one if s in two} <= {0.0, 1.0}
    return PairedDifference(
        value=found.value,
        low=None if found.low is None else max(-1.0, found.low),
        high=None if found.high is None else min(1.0, found.high),
        num_samples=len(gaps),
        p=mcnemar(better, worse) if binary else sign_flip(gaps),
        test="mcnemar" if binary else "sign_flip",
        num_better=better,
        num_worse=worse,
    )


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided p: either arm is as likely to be the one that is right where just one is."""
    total = better + worse
    tail = sum(math.comb(total, k) for k in range(min(better, worse) + 1))
    return float(min(1.0, 2 * tail / 2**total))


def sign_flip(gaps: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of a mean of 0, where each sample's difference is as likely to have the other sign. Exact for few samples."""
    moved = [gap for gap in gaps if abs(gap) > _TIE]
    seen = abs(math.fsum(moved)) - _TIE
    if len(moved) <= _EXACT_FLIPS:
        sums = [0.0]
        for gap in moved:
            sums = [total + sign * gap for total in sums for sign in (1, -1)]
        return sum(abs(total) >= seen for total in sums) / len(sums)
    rng = np.random.default_rng(seed)
    gaps_N = np.array(moved)
    rows = max(1, _CELLS // len(moved))
    reached = 0
    for start in range(0, NUM_FLIPS, rows):
        signs_RN = rng.choice(np.array([-1.0, 1.0]), size=(min(rows, NUM_FLIPS - start), len(moved)))
        reached += int((np.abs(signs_RN @ gaps_N) >= seen).sum())
    return (1 + reached) / (NUM_FLIPS + 1)


def mean_estimate(values_by_sample: Mapping[str, Sequence[float]], *, share: bool = False) -> Estimate:
    """Mean of all values (each 0 … 1) with its 95 % interval clustered by sample; ``n`` counts the samples.

    A share's interval is Wilson's at the number of independent answers that would have the clustered standard error, a
    mean's Student's over samples. Where all values are the same, Wilson's for as many answers as there are samples.
    """
    clusters = [list(values) for values in values_by_sample.values() if values]
    count, total = len(clusters), sum(len(values) for values in clusters)
    if not count:
        return Estimate(value=None)
    mean = math.fsum(value for values in clusters for value in values) / total
    if count < MIN_SAMPLES:
        return Estimate(value=mean, n=count)
    squares = math.fsum((math.fsum(values) - len(values) * mean) ** 2 for values in clusters)
    error = math.sqrt(count / (count - 1) * squares) / total
    critical = t_quantile(0.975, count - 1)
    if error > _TIE and not share:
        low, high = max(0.0, mean - critical * error), min(1.0, mean + critical * error)
    else:
        low, high = _wilson(mean, mean * (1 - mean) / error**2 if error > _TIE else count, critical)
    return Estimate(value=mean, low=low, high=high, n=count)


def _wilson(mean: float, n: float, z: float) -> tuple[float, float]:
    scale = 1 + z * z / n
    middle = (mean + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _figures(answers: Sequence[Answer], kind: SuiteKind) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "num_samples": len({answer.sample for answer in answers}),
        "num_answers": len(answers),
        "num_failed": sum(answer.passed is None and not answer.pending for answer in answers),
        "num_pending": sum(answer.pending for answer in answers),
        "score": mean_estimate(_by_sample(answers, "score")),
        "pass_rate": mean_estimate(_by_sample(answers, "pass_rate"), share=True),
        "refusal_rate": mean_estimate(_by_sample(answers, "refusal_rate"), share=True),
    }
    if kind == "redteam":
        figures["harmful_rate"] = mean_estimate(_by_sample(answers, "harmful_rate"), share=True)
    return figures


def _by_sample(answers: Iterable[Answer], figure: Figure) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for answer in answers:
        value = _value(answer, figure)
        if value is not None:
            found.setdefault(answer.sample, []).append(value)
    return found


def _value(answer: Answer, figure: Figure) -> float | None:
    if figure == "score":
        return answer.score
    if figure == "refusal_rate":
        return None if answer.refusal is None else float(answer.refusal != "none")
    if answer.passed is None:
        return None
    return float(answer.passed if figure == "pass_rate" else not answer.passed)
