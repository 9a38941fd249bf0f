"""Logistic regression on sparse binary rows, in numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RIDGE = 1.0
"""Penalty on half the squared weights, against the sum of the rows' losses."""
_NEWTON_STEPS, _GRADIENT_STEPS = 6, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Each row's columns; all entries of a row are 1 / sqrt(their number)."""

    columns_E: NDArray[np.int64]
    starts: NDArray[np.int64]
    """[N + 1]"""

    @property
    def values(self) -> Floats:
        """Of each entry."""
        sizes_N = np.diff(self.starts)
        return np.repeat(1 / np.sqrt(np.maximum(sizes_N, 1)), sizes_N)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Of each entry."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def dot(self, weights_F: Floats) -> Floats:
        """[N]"""
        entries_E = weights_F[self.columns_E] * self.values
        return np.bincount(self.rows, weights=entries_E, minlength=len(self.starts) - 1).astype(np.float64)

    def take(self, chosen: NDArray[np.int64]) -> Rows:
        sizes = np.diff(self.starts)[chosen]
        ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        places = np.arange(ends[-1]) + np.repeat(self.starts[chosen] - ends[:-1], sizes)
        return Rows(columns_E=self.columns_E[places], starts=ends)


def fit_logistic(rows: Rows, labels_N: NDArray[np.bool_], num_features: int) -> tuple[Floats, float]:
    """Weights and bias of the penalised fit, both classes weighing the same: Newton steps by conjugate gradients."""
    used, columns_E = np.unique(rows.columns_E, return_inverse=True)
    rows_E, values_E, num = rows.rows, rows.values, len(labels_N)
    balance_N = np.where(labels_N, 0.5 * num / labels_N.sum(), 0.5 * num / (~labels_N).sum())
    target_N = labels_N.astype(np.float64)
    size = len(used)

    def forward(theta: Floats) -> Floats:
        summed_N = np.bincount(rows_E, weights=theta[columns_E] * values_E, minlength=num).astype(np.float64)
        return summed_N + float(theta[size])

    def backward(residual_N: Floats) -> Floats:
        weighted = np.bincount(columns_E, weights=residual_N[rows_E] * values_E, minlength=size)
        return np.append(weighted, residual_N.sum())

    penalty = np.append(np.full(size, RIDGE), 1e-6)  # the bias is free
    theta = np.zeros(size + 1)
    for _ in range(_NEWTON_STEPS):
        chance_N = 1 / (1 + np.exp(-np.clip(forward(theta), -30, 30)))
        gradient = backward(balance_N * (chance_N - target_N)) + penalty * theta
        curvature_N = balance_N * np.maximum(chance_N * (1 - chance_N), 1e-6)

        def product(direction: Floats, curvature_N: Floats = curvature_N) -> Floats:
            return backward(curvature_N * forward(direction)) + penalty * direction

        step = _solve(product, gradient)
        theta = theta - step
        if np.abs(step).max() < 1e-4:
            break
    weights_F = np.zeros(num_features)
    weights_F[used] = theta[:size]
    return weights_F, float(theta[size])


def _solve(product: Callable[[Floats], Floats], right: Floats) -> Floats:
    """Conjugate gradients for a positive definite matrix given by its product."""
    solution, rest = np.zeros_like(right), right.copy()
    direction, size = rest.copy(), float(rest @ rest)
    for _ in range(_GRADIENT_STEPS):
        if size < 1e-4 * float(right @ right):
            break
        image = product(direction)
        length = size / float(direction @ image)
        solution, rest = solution + length * direction, rest - length * image
        fresh = float(rest @ rest)
        direction, size = rest + fresh / size * direction, fresh
    return solution
