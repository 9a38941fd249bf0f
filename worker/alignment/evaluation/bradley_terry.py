"""Blind votes between arms: Bradley-Terry strengths with a position effect, and how far people agree.

    logit P(left wins) = strength[left] - strength[right] + position        (a tie is half a win)

Votes on one prompt go together, and so do votes of one rater: standard errors are clustered both ways (Cameron, Gelbach &
Miller 2011: by prompt + by rater - by both) and intervals use Student's t with the fewer clusters less one. Single votes as
rows would claim up to 2.3 times the certainty there is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.stats import cluster_index
from worker.alignment.evaluation.student import t_quantile
from worker.alignment.events import Estimate

Floats = NDArray[np.float64]

MIN_CLUSTERS = 5
"""Prompts and raters each below which no interval is given: t with 3 degrees of freedom says nothing."""
_RIDGE = 1e-2
"""A hundredth of a vote: strengths stay finite where an arm wins everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    prompt: Hashable
    rater: Hashable
    left: str
    right: str
    score: float
    """For the left answer: 1, 0.5 (a tie) or 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    arms: tuple[str, ...]
    values: Floats
    """[A] strengths in logits, the first arm's is 0; then the position effect: [A + 1]."""
    covariance: Floats
    """[A + 1, A + 1], clustered by prompt and rater."""
    row_covariance: Floats = field(repr=False)
    """The same as if every vote were independent: for comparison only."""
    num_votes: int
    num_ties: int
    num_prompts: int
    num_raters: int

    def win_rate(self, arm: str, other: str) -> Estimate:
        """P(arm beats other), ties half, where neither side is favoured by its position; 95 % interval."""
        contrast = np.zeros(len(self.values))
        contrast[self.arms.index(arm)] += 1
        contrast[self.arms.index(other)] -= 1
        return self._share(contrast)

    @property
    def left_rate(self) -> Estimate:
        """P(left wins) between equals: 0.5 is no position effect."""
        contrast = np.zeros(len(self.values))
        contrast[-1] = 1
        return self._share(contrast)

    def _share(self, contrast: Floats) -> Estimate:
        logit = float(contrast @ self.values)
        clusters = min(self.num_prompts, self.num_raters)
        if clusters < MIN_CLUSTERS:
            return Estimate(value=_sigmoid(logit), n=self.num_votes)
        spread = t_quantile(0.975, clusters - 1) * float(np.sqrt(contrast @ self.covariance @ contrast))
        return Estimate(
            value=_sigmoid(logit), low=_sigmoid(logit - spread), high=_sigmoid(logit + spread), n=self.num_votes
        )


def fit(votes: Sequence[Vote], arms: Sequence[str] = ()) -> Strengths:
    """``arms`` orders the strengths, the first is 0; left out, by name. Raises ValueError without votes or with an unknown arm."""
    if not votes:
        raise ValueError("There are no votes.")
    names = tuple(arms) or tuple(sorted({arm for vote in votes for arm in (vote.left, vote.right)}))
    places = {name: i for i, name in enumerate(names)}
    unknown = {arm for vote in votes for arm in (vote.left, vote.right)} - places.keys()
    if unknown:
        raise ValueError(f"Votes name arms that are not compared: {', '.join(sorted(unknown))}.")
    design_NB = np.zeros((len(votes), len(names) + 1))
    rows = np.arange(len(votes))
    np.add.at(design_NB, (rows, np.array([places[vote.left] for vote in votes])), 1.0)
    np.add.at(design_NB, (rows, np.array([places[vote.right] for vote in votes])), -1.0)
    design_NB[:, -1] = 1.0
    y_N = np.array([vote.score for vote in votes], dtype=float)
    free = np.arange(1, len(names) + 1)
    beta, information = _newton(design_NB[:, free], y_N)
    scores_NB = design_NB[:, free] * (y_N - _sigmoids(design_NB[:, free] @ beta))[:, None]
    prompts, raters = (np.array([repr(key) for key in keys]) for keys in _keys(votes))
    both = np.char.add(np.char.add(prompts, "\x00"), raters)
    bread = np.linalg.inv(information)
    meat = _meat(scores_NB, prompts) + _meat(scores_NB, raters) - _meat(scores_NB, both)
    values = np.zeros(len(names) + 1)
    values[free] = beta
    return Strengths(
        arms=names,
        values=values,
        covariance=_padded(_positive(bread @ meat @ bread), free, len(values)),
        row_covariance=_padded(bread @ (scores_NB.T @ scores_NB) @ bread, free, len(values)),
        num_votes=len(votes),
        num_ties=int((y_N == 0.5).sum()),
        num_prompts=len(set(prompts.tolist())),
        num_raters=len(set(raters.tolist())),
    )


def fleiss_kappa(counts_IC: NDArray[Any]) -> float | None:
    """Chance-corrected agreement of several raters; ``counts_IC`` [items, classes], items may have different numbers of ratings.

    Items with one rating are left out. None without two ratings of one item, or where only one class was ever used.
    """
    counts = np.asarray(counts_IC, dtype=float)
    counts = counts[counts.sum(1) >= 2]
    if not len(counts):
        return None
    n_I = counts.sum(1)
    observed = float(((counts**2).sum(1) - n_I).sum() / (n_I * (n_I - 1)).sum())
    expected = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Chance-corrected agreement of two raters on the same items; None where both always say one and the same."""
    n = len(first)
    if n == 0:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    left, right = Counter(first), Counter(second)
    expected = sum(left[name] * right[name] for name in left) / n**2
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def vote_counts(votes: Sequence[Vote]) -> NDArray[np.int64]:
    """[items, 3] votes for one arm, ties, for the other; an item is a prompt and two arms, whichever side each was on.

    A rater's repeated vote on an item counts once, the first.
    """
    seen: set[tuple[Hashable, ...]] = set()
    counts: dict[tuple[Hashable, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    for vote in votes:
        item, score = _item(vote)
        if (item, vote.rater) not in seen:
            seen.add((item, vote.rater))
            counts[item][int(2 * (1 - score))] += 1
    return np.array(list(counts.values()), dtype=np.int64).reshape(-1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfConsistency:
    num_repeats: int
    num_same: int
    """Repeats with the same verdict, sides swapped back."""
    by_rater: Mapping[Hashable, tuple[int, int]]
    """(same, repeats)."""

    @property
    def share(self) -> float | None:
        return self.num_same / self.num_repeats if self.num_repeats else None


def self_consistency(votes: Sequence[Vote]) -> SelfConsistency:
    """Do raters repeat themselves? Each later vote on an item beside the same rater's first."""
    first: dict[tuple[Hashable, ...], float] = {}
    found: dict[Hashable, list[int]] = defaultdict(lambda: [0, 0])
    for vote in votes:
        item, score = _item(vote)
        key = (item, vote.rater)
        if key in first:
            found[vote.rater][0] += first[key] == score
            found[vote.rater][1] += 1
        else:
            first[key] = score
    by_rater = {rater: (same, repeats) for rater, (same, repeats) in found.items()}
    return SelfConsistency(
        num_repeats=sum(n for _, n in by_rater.values()),
        num_same=sum(n for n, _ in by_rater.values()),
        by_rater=by_rater,
    )


def _item(vote: Vote) -> tuple[tuple[Hashable, ...], float]:
    """The item and the score for its arm that comes first by name."""
    if vote.left <= vote.right:
        return (vote.prompt, vote.left, vote.right), vote.score
    return (vote.prompt, vote.right, vote.left), 1 - vote.score


def _keys(votes: Sequence[Vote]) -> tuple[list[Hashable], list[Hashable]]:
    return [vote.prompt for vote in votes], [vote.rater for vote in votes]


def _newton(design_NB: Floats, y_N: Floats) -> tuple[Floats, Floats]:
    """Estimates [B] and their information [B, B]."""
    beta = np.zeros(design_NB.shape[1])
    ridge = _RIDGE * np.eye(len(beta))
    for _ in range(100):
        p_N = _sigmoids(design_NB @ beta)
        information = (design_NB * (p_N * (1 - p_N))[:, None]).T @ design_NB + ridge
        step = np.linalg.solve(information, design_NB.T @ (y_N - p_N) - _RIDGE * beta)
        beta = beta + step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-9:
            break
    return beta, information


def _meat(scores_NB: Floats, keys_N: NDArray[Any]) -> Floats:
    """Outer products of the clusters' summed scores, with the G / (G - 1) correction."""
    index, count = cluster_index(keys_N)
    sums = np.zeros((count, scores_NB.shape[1]))
    np.add.at(sums, index, scores_NB)
    result: Floats = sums.T @ sums * (count / max(1, count - 1))
    return result


def _positive(matrix: Floats) -> Floats:
    """The difference of the three may have a negative direction: there nothing is claimed to be known below 0."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    result: Floats = (vectors * np.maximum(values, 0)) @ vectors.T
    return result


def _padded(matrix: Floats, free: NDArray[np.int64], size: int) -> Floats:
    whole = np.zeros((size, size))
    whole[np.ix_(free, free)] = matrix
    return whole


def _sigmoids(x: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return result


def _sigmoid(x: float) -> float:
    return float(_sigmoids(np.array(x)))
