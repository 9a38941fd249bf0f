"""The quality gate: alarms compare like with like, the samples of either arm that look desirable.

Without it every healthy alignment looks like a collapse: the model drops a style that people voted down, and what is left
is more alike. Where no rule is given, a label model learned from the training rows' own thumbs tells which samples look
desirable.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.sparse import Rows, fit_logistic
from worker.alignment.evaluation.stats import auc, bootstrap_interval, cluster_index, weighted_auc

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NUM_FEATURES = 2**16
MAX_ROWS = 4000
"""More rows are thinned out at random: the gate needs a style, not the last point of accuracy."""
MIN_ROWS = 40
"""Of each class; fewer teach nothing."""
NUM_FOLDS = 5
INFORMATIVE = 0.6
"""What the lower bound of the held-out AUC must reach for the gate to be used."""
_MAX_WORDS = 256
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelModel:
    """Logistic regression on hashed words and pairs of words, both classes weighing the same."""

    auc: float | None
    """Held out by conversation root; None where a class has too few rows."""
    low: float | None
    """Lower end of its 95 % interval."""
    num_rows: int
    weights_F: Floats
    bias: float

    @property
    def informative(self) -> bool:
        return self.low is not None and self.low >= INFORMATIVE

    def desirable(self, texts: Sequence[str]) -> Bools:
        """Which texts look desirable, [N]; all where the model is not informative."""
        if not self.informative:
            return np.ones(len(texts), dtype=bool)
        looks: Bools = features(texts).dot(self.weights_F) + self.bias > 0
        return looks


def fit_label_model(texts: Sequence[str], labels: Sequence[bool], groups: Sequence[str], seed: int = 0) -> LabelModel:
    """Learn from rated completions; ``groups`` are conversation roots, never on both sides of a fold."""
    labels_N, groups_N = np.asarray(labels, dtype=bool), np.asarray(groups, dtype=object)
    rng = np.random.default_rng(seed)
    if len(texts) > MAX_ROWS:
        kept = np.sort(rng.permutation(len(texts))[:MAX_ROWS])
        texts, labels_N, groups_N = [texts[index] for index in kept], labels_N[kept], groups_N[kept]
    smaller_class = min(int(labels_N.sum()), int((~labels_N).sum()))
    clusters_N, num_clusters = cluster_index(groups_N)
    if smaller_class < MIN_ROWS or num_clusters < 2 * NUM_FOLDS:
        return LabelModel(auc=None, low=None, num_rows=len(texts), weights_F=np.zeros(NUM_FEATURES), bias=0.0)
    rows = features(texts)
    fold_N = rng.integers(0, NUM_FOLDS, size=num_clusters)[clusters_N]
    scores_N = np.zeros(len(texts))
    for fold in range(NUM_FOLDS):
        held_out = fold_N == fold
        if held_out.any() and 0 < labels_N[~held_out].sum() < (~held_out).sum():
            weights_F, bias = fit_logistic(rows.take(np.flatnonzero(~held_out)), labels_N[~held_out], NUM_FEATURES)
            scores_N[held_out] = rows.take(np.flatnonzero(held_out)).dot(weights_F) + bias
    low, _ = bootstrap_interval(
        clusters_N, num_clusters, weighted_auc(scores_N, labels_N), seed=seed, num_resamples=500
    )
    weights_F, bias = fit_logistic(rows, labels_N, NUM_FEATURES)
    return LabelModel(auc=auc(scores_N, labels_N), low=low, num_rows=len(texts), weights_F=weights_F, bias=bias)


def features(texts: Sequence[str]) -> Rows:
    """Presence of each word and pair of neighbouring words, hashed; every text has length 1."""
    columns, starts = [], [0]
    for text in texts:
        tokens = _WORD.findall(text.lower())[:_MAX_WORDS]
        grams = {*tokens, *(f"{a} {b}" for a, b in pairwise(tokens))}
        found = sorted({zlib.crc32(gram.encode()) % NUM_FEATURES for gram in grams})
        columns.extend(found)
        starts.append(len(columns))
    return Rows(columns_E=np.array(columns, dtype=np.int64), starts=np.array(starts, dtype=np.int64))


def gated(looks_desirable_N: Bools, num_reference: int) -> Bools:
    """Which samples of one prompt count, the reference's first, [N].

    The desirable-looking ones where both arms have two of them. Where they have not, the others, if both arms have two of
    those: like is still compared with like. Else none: whatever such a prompt shows may be the change of style itself.
    """
    for wanted_N in (looks_desirable_N, ~looks_desirable_N):
        if min(wanted_N[:num_reference].sum(), wanted_N[num_reference:].sum()) >= 2:
            return wanted_N
    return np.zeros_like(looks_desirable_N)


def quality_rule(model: LabelModel | None) -> str:
    """One sentence for the page: how samples were gated."""
    if model is None or model.auc is None:
        return "No quality rule: the training rows hold too few of one class to learn one, so every sample counts."
    if not model.informative:
        return (
            f"No quality rule: the votes cannot be told from the text (AUC {model.auc:.2f} on held-out rows), "
            "so every sample counts and a change of style can look like a collapse."
        )
    return (
        f"Only samples that look desirable count, by a model of the {model.num_rows:,} training rows' votes "
        f"(AUC {model.auc:.2f} on held-out rows); where an arm has fewer than two of them, the prompt's other samples are "
        "compared, and where an arm has fewer than two of those as well, the prompt is left out."
    )
