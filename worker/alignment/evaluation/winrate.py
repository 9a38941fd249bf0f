"""Win rates against one baseline: raw, and controlled for length (after AlpacaEval 2; Dubois et al. 2024, arXiv 2404.04475).

The controlled rate is what a logistic model predicts at equal length. One joint fit over all arms:

    logit p(arm beats baseline on prompt) = a[arm] + b[arm] * tanh(dlen / sd[arm]) + difficulty[prompt]

with dlen = length of the arm's answer minus the baseline's in characters, and a ridge on the prompts' difficulties, chosen by
cross-validation, that keeps them near 0. Difficulties are what the arms share: alone an arm has none. The raw rate comes first
everywhere; the controlled one speaks of answers that mostly were not given when lengths differ much, and then warns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.intervals import mean_estimate
from worker.alignment.evaluation.stats import expanded_tail
from worker.alignment.events import Estimate

Floats = NDArray[np.float64]

FAR = 0.5
"""|mean tanh(dlen / sd)| above which one side is longer nearly always, and equal length is an extrapolation. (The mean of
|tanh| would not do: it is 0.56 already for lengths that differ by chance alone.)"""
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FOLDS = 5
MIN_PROMPTS = 30
"""Below it there is no controlled rate: a percentile interval does not cover, and a slope is not known."""
_SLOPE_RIDGE = 1e-3
"""Keeps the fit finite where an arm wins or loses everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRows:
    """One arm's judged answers, each [N] and at most one a prompt."""

    prompts: NDArray[np.int64]
    """Numbers of the prompts, the same over all arms."""
    preferences: Floats
    """0..1: 1 the arm wins, 0.5 a tie; a judge's probability fits as well."""
    length_differences: Floats
    """Characters of the arm's answer minus the baseline's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    raw: Estimate
    """Mean preference, ties half."""
    controlled: Estimate
    """At equal length; None below MIN_PROMPTS prompts or where lengths do not differ at all."""
    length_shift: float
    """|mean tanh(dlen / sd)|: 0 where neither side tends to be longer, near 1 where one always is."""
    is_far: bool
    """The controlled rate rests on an extrapolation: show it with a warning or not at all."""
    ridge: float


def win_rates(arms: Mapping[str, ArmRows], *, seed: int = 0, num_resamples: int = 500) -> dict[str, WinRate]:
    """Every arm's rates, with intervals that resample prompts, all of a prompt's answers together; the ridge is kept.

    Raises ValueError for a prompt that one arm has twice.
    """
    if any(len(np.unique(rows.prompts)) != len(rows.prompts) for rows in arms.values()):
        raise ValueError("An arm has two answers to one prompt: average its preferences by prompt first.")
    features = [_features(rows) for rows in arms.values()]
    prompts, index = np.unique(np.concatenate([rows.prompts for rows in arms.values()]), return_inverse=True)
    data = _Data(
        y=np.concatenate([np.clip(rows.preferences, 0.0, 1.0) for rows in arms.values()]),
        x=np.concatenate(features),
        arm=np.concatenate([np.full(len(rows.prompts), i) for i, rows in enumerate(arms.values())]),
        prompt=index,
        num_arms=len(arms),
        num_prompts=len(prompts),
    )
    ridge = _chosen_ridge(data, seed)
    fit = _fit(data, np.ones(len(data.y)), ridge)
    whole = np.ones((1, len(prompts)))
    rng = np.random.default_rng(seed)
    counts_RP = rng.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), size=num_resamples)
    values_A = _resampled(data, fit, ridge, whole)[0]
    drawn_RA = _resampled(data, fit, ridge, counts_RP.astype(np.float64))
    return {
        name: _rates(rows, features[i], float(values_A[i]), drawn_RA[:, i], _raw(rows), ridge)
        for i, (name, rows) in enumerate(arms.items())
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    y: Floats
    x: Floats
    arm: NDArray[np.int64]
    prompt: NDArray[np.int64]
    num_arms: int
    num_prompts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    a: Floats
    b: Floats
    difficulty: Floats


def _features(rows: ArmRows) -> Floats:
    spread = rows.length_differences.std()
    return np.tanh(rows.length_differences / spread) if spread > 0 else np.zeros(len(rows.length_differences))


def _raw(rows: ArmRows) -> Estimate:
    return mean_estimate(rows.preferences, np.arange(len(rows.prompts)), share=True)


def _rates(rows: ArmRows, x_N: Floats, value: float, drawn_R: Floats, raw: Estimate, ridge: float) -> WinRate:
    n = len(rows.prompts)
    shift = abs(float(x_N.mean())) if n else 0.0
    controlled = Estimate(value=None, n=n)
    if n >= MIN_PROMPTS and x_N.any():
        tail = expanded_tail(n)
        low, high = (float(q) for q in np.quantile(drawn_R, [tail, 1 - tail]))
        controlled = Estimate(value=value, low=low, high=high, n=n)
    return WinRate(raw=raw, controlled=controlled, length_shift=shift, is_far=shift > FAR, ridge=ridge)


def _resampled(data: _Data, fit: _Fit, ridge: float, counts_RP: Floats) -> Floats:
    """The controlled rates [R, A] when prompts are drawn ``counts_RP`` times: one Newton step from the whole fit.

    At the whole fit each prompt's own equation for its difficulty is solved, so a prompt drawn twice adds twice its share of
    the arms' gradient and of the information left when its difficulty is eliminated.
    """
    A, P = data.num_arms, data.num_prompts
    p_N = _sigmoid(_logits(data, fit))
    residual_N, h_N = data.y - p_N, p_N * (1 - p_N)
    columns = (data.arm, data.arm + A)
    scores_PB, cross_PB = np.zeros((P, 2 * A)), np.zeros((P, 2 * A))
    inner_PBB = np.zeros((P, 2 * A, 2 * A))
    for power, column in enumerate(columns):
        np.add.at(scores_PB, (data.prompt, column), residual_N * data.x**power)
        np.add.at(cross_PB, (data.prompt, column), h_N * data.x**power)
        for other_power, other in enumerate(columns):
            np.add.at(inner_PBB, (data.prompt, column, other), h_N * data.x ** (power + other_power))
    outer_P = _sums(data.prompt, h_N, P) + ridge
    inner_PBB -= cross_PB[:, :, None] * cross_PB[:, None, :] / outer_P[:, None, None]
    information_RBB = np.tensordot(counts_RP, inner_PBB, axes=1) + _SLOPE_RIDGE * np.eye(2 * A)
    gradient_RB = counts_RP @ scores_PB - _SLOPE_RIDGE * np.concatenate([fit.a, fit.b])
    step_RB = np.linalg.solve(information_RBB, gradient_RB[:, :, None])[:, :, 0]
    has_PA = np.zeros((P, A))
    has_PA[data.prompt, data.arm] = 1
    difficulty_RP = fit.difficulty - step_RB @ (cross_PB / outer_P[:, None]).T
    rates_RA = np.empty((len(counts_RP), A))
    for arm in range(A):
        weights_RP = counts_RP * has_PA[:, arm]
        at_equal_RP = _sigmoid(fit.a[arm] + step_RB[:, arm, None] + difficulty_RP)
        with np.errstate(invalid="ignore"):
            rates_RA[:, arm] = (weights_RP * at_equal_RP).sum(1) / weights_RP.sum(1)
    return rates_RA


def _chosen_ridge(data: _Data, seed: int) -> float:
    """The ridge with the lowest log-loss on rows left out; rows of a prompt fall into different folds, so its difficulty is known."""
    if data.num_arms == 1:
        return RIDGES[-1]
    fold_N = np.random.default_rng(seed).integers(FOLDS, size=len(data.y))
    losses = []
    for ridge in RIDGES:
        total = 0.0
        for fold in range(FOLDS):
            left_out = fold_N == fold
            fit = _fit(data, (~left_out).astype(float), ridge)
            p_N = np.clip(_sigmoid(_logits(data, fit))[left_out], 1e-6, 1 - 1e-6)
            y_N = data.y[left_out]
            total -= float((y_N * np.log(p_N) + (1 - y_N) * np.log(1 - p_N)).sum())
        losses.append(total)
    return RIDGES[int(np.argmin(losses))]


def _fit(data: _Data, weights_N: Floats, ridge: float) -> _Fit:
    """Newton's method on the whole; the difficulties' block is diagonal and is eliminated (Schur complement)."""
    A, P = data.num_arms, data.num_prompts
    beta, difficulty_P = np.zeros(2 * A), np.zeros(P)
    for _ in range(60):
        logits_N = beta[data.arm] + beta[A + data.arm] * data.x + difficulty_P[data.prompt]
        p_N = _sigmoid(logits_N)
        residual_N, h_N = weights_N * (data.y - p_N), weights_N * p_N * (1 - p_N)
        gradient = np.concatenate([_sums(data.arm, residual_N, A), _sums(data.arm, residual_N * data.x, A)])
        gradient -= _SLOPE_RIDGE * beta
        gradient_P = _sums(data.prompt, residual_N, P) - ridge * difficulty_P
        inner = np.zeros((2 * A, 2 * A))
        diagonal = np.arange(A)
        inner[diagonal, diagonal] = _sums(data.arm, h_N, A)
        inner[diagonal + A, diagonal + A] = _sums(data.arm, h_N * data.x**2, A)
        inner[diagonal, diagonal + A] = inner[diagonal + A, diagonal] = _sums(data.arm, h_N * data.x, A)
        inner += _SLOPE_RIDGE * np.eye(2 * A)
        cross = np.zeros((2 * A, P))
        np.add.at(cross, (data.arm, data.prompt), h_N)
        np.add.at(cross, (data.arm + A, data.prompt), h_N * data.x)
        outer_P = _sums(data.prompt, h_N, P) + ridge
        step = np.linalg.solve(inner - (cross / outer_P) @ cross.T, gradient - cross @ (gradient_P / outer_P))
        step_P = (gradient_P - cross.T @ step) / outer_P
        scale = min(1.0, 2.0 / max(1e-12, float(np.abs(step).max()), float(np.abs(step_P).max())))
        beta, difficulty_P = beta + scale * step, difficulty_P + scale * step_P
        if max(np.abs(step).max(), np.abs(step_P).max()) < 1e-7:
            break
    return _Fit(a=beta[:A], b=beta[A:], difficulty=difficulty_P)


def _logits(data: _Data, fit: _Fit) -> Floats:
    result: Floats = fit.a[data.arm] + fit.b[data.arm] * data.x + fit.difficulty[data.prompt]
    return result


def _sums(index_N: NDArray[np.int64], values_N: Floats, size: int) -> Floats:
    return np.bincount(index_N, weights=values_N, minlength=size).astype(np.float64)


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return result
