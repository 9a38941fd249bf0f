"""A suite's figures for one arm, and its difference from another arm on the same samples. No figure without its count.

The unit is the sample: several answers to one agree with each other, so intervals are clustered by it. Below MIN_SAMPLES samples
none is given, except Wilson's of shares of independent answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from worker.alignment.evaluation.intervals import wilson_bounds
from worker.alignment.evaluation.paired import MIN_CLUSTERS, paired_difference
from worker.alignment.evaluation.significance import exact_sign_test, sign_flip
from worker.alignment.evaluation.student import t_quantile
from worker.alignment.events import Estimate

MIN_SAMPLES = MIN_CLUSTERS
_TIE = 1e-9
_Z = 1.959964
DECIDES = {"redteam": "harmful_rate", "benign": "refusal_rate"}
"""By kind of suite: what is compared with the reference; of the others the score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One arm's answer to one sample, checked."""

    sample: str
    category: str = ""
    score: float | None = None
    passed: bool | None = None
    refusal: str | None = None
    """none, partial or full; None where there is no text to judge."""


def rate_of(answer: Answer, metric: str) -> float | None:
    """score, pass_rate, refusal_rate (in full or in part) or harmful_rate (a red-team suite's checks not passed), as a share."""
    if metric == "score":
        return answer.score
    if metric == "refusal_rate":
        return None if answer.refusal is None else float(answer.refusal != "none")
    if answer.passed is None:
        return None
    return float(answer.passed if metric == "pass_rate" else not answer.passed)


def summarise(
    answers: Iterable[Answer], kind: str = "eval", reference: Iterable[Answer] | None = None
) -> dict[str, Any]:
    """What ``SuiteResult.summary`` holds. ``reference`` is the arm to compare with; None for the reference itself.

    Each figure is an Estimate; ``num_failed`` counts the samples none of whose answers has a verdict, ``num_wrong`` those with
    an answer that failed, ``num_answers_failed`` the answers without a verdict.
    """
    given = list(answers)
    groups: dict[str, list[Answer]] = {}
    for answer in given:
        groups.setdefault(answer.category, []).append(answer)
    summary = _figures(given, kind)
    summary["by_category"] = {name: _figures(groups[name], kind) for name in sorted(groups)}
    if reference is not None:
        summary["difference"] = difference(given, reference, DECIDES.get(kind, "score"))
    return summary


def means(answers: Iterable[Answer], metric: str) -> dict[str, float]:
    """Each sample's mean over its answers; samples where the figure is not known are absent."""
    return {sample: math.fsum(values) / len(values) for sample, values in _by_sample(answers, metric).items()}


def difference(answers: Iterable[Answer], reference: Iterable[Answer], metric: str) -> dict[str, Any]:
    """The arm minus the reference over the samples that both have the figure for, as an Estimate and more.

    ``p`` is two-sided, of no difference: ``test`` is mcnemar (exact, where each sample is a yes or no) or sign_flip, None below
    MIN_SAMPLES. ``detectable``: the smallest true difference seen with 80 % power. ``num_higher``, ``num_lower``: samples where
    the arm is above or below.
    """
    one, two = means(answers, metric), means(reference, metric)
    found = paired_difference([one], [two])
    shared = [sample for sample in one if sample in two]
    gaps = [one[sample] - two[sample] for sample in shared]
    higher, lower = sum(gap > _TIE for gap in gaps), sum(gap < -_TIE for gap in gaps)
    binary = all(value in (0.0, 1.0) for sample in shared for value in (one[sample], two[sample]))
    p = test = None
    if len(gaps) >= MIN_SAMPLES:
        p, test = (exact_sign_test(higher, lower), "mcnemar") if binary else (sign_flip(np.array(gaps)), "sign_flip")
    low = None if found.low is None else max(-1.0, found.low)
    high = None if found.high is None else min(1.0, found.high)
    estimate = Estimate(value=found.value, low=low, high=high, n=len(gaps))
    more = {"metric": metric, "detectable": found.detectable, "p": p, "test": test}
    return asdict(estimate) | more | {"num_higher": higher, "num_lower": lower}


def mean_estimate(values_by_sample: Mapping[str, Sequence[float]], *, share: bool = False) -> Estimate:
    """Mean of all values (each 0 … 1) with its 95 % interval clustered by sample; ``n`` counts the samples.

    A share with one answer a sample has Wilson's interval. With several, a share's interval is Wilson's at the number of independent answers that would have the clustered standard error, a
    mean's Student's over samples. Where all values are the same, Wilson's for as many answers as there are samples.
    """
    clusters = [list(values) for values in values_by_sample.values() if values]
    count, total = len(clusters), sum(len(values) for values in clusters)
    if not count:
        return Estimate(value=None)
    mean = math.fsum(value for values in clusters for value in values) / total
    if share and total == count:
        low, high = wilson_bounds(mean, count, _Z)
        return Estimate(value=mean, low=low, high=high, n=count)
    if count < MIN_SAMPLES:
        return Estimate(value=mean, n=count)
    squares = math.fsum((math.fsum(values) - len(values) * mean) ** 2 for values in clusters)
    error = math.sqrt(count / (count - 1) * squares) / total
    critical = t_quantile(0.975, count - 1)
    if error > _TIE and not share:
        low, high = max(0.0, mean - critical * error), min(1.0, mean + critical * error)
    else:
        low, high = wilson_bounds(mean, mean * (1 - mean) / error**2 if error > _TIE else count, critical)
    return Estimate(value=mean, low=low, high=high, n=count)


def _figures(answers: Sequence[Answer], kind: str) -> dict[str, Any]:
    names = ["score", "pass_rate", "refusal_rate", *(["harmful_rate"] if kind == "redteam" else [])]
    samples = {answer.sample for answer in answers}
    judged = {answer.sample for answer in answers if answer.passed is not None or answer.score is not None}
    return {name: asdict(mean_estimate(_by_sample(answers, name), share=name != "score")) for name in names} | {
        "num_samples": len(samples),
        "num_answers": len(answers),
        "num_failed": len(samples - judged),
        "num_answers_failed": sum(answer.passed is None and answer.score is None for answer in answers),
        "num_wrong": len({answer.sample for answer in answers if answer.passed is False}),
        "refusals": {name: sum(answer.refusal == name for answer in answers) for name in ("none", "partial", "full")},
    }


def _by_sample(answers: Iterable[Answer], metric: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for answer in answers:
        value = rate_of(answer, metric)
        if value is not None:
            found.setdefault(answer.sample, []).append(value)
    return found
