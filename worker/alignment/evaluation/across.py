"""How alike a model's answers are across prompts: one sample of each prompt, all prompts together.

A model that answers everything with the same template keeps its variety within a prompt and loses it here.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.grams import levels, pack
from worker.alignment.evaluation.stats import Floats, bootstrap_interval, cluster_index, weighted_mean
from worker.alignment.evaluation.texts import Words, spell
from worker.alignment.events import Contrast

_TEMPLATE = 4
"""Words of an opening, and of an n-gram that counts as repeated."""
_LONG = 0.95


def across_contrasts(
    reference: Sequence[Words], policy: Sequence[Words], word_limit: int, categories: NDArray[np.str_], *, seed: int = 0
) -> dict[str, Contrast]:
    """ACROSS_KEYS of both arms; ``reference[i]`` and ``policy[i]`` are one whole answer each to prompt i.

    Texts are cut to ``word_limit`` words, but not for their length. Intervals resample categories; the compression ratio
    has none, since a prompt drawn twice compresses away. Where an arm has no words at all there is no ratio.
    """
    arms = (reference, policy)
    cut = [[sample[:word_limit] for sample in arm] for arm in arms]
    clusters_P, num_clusters = cluster_index(categories)
    found = {}
    ratios = [compression_ratio(arm) for arm in cut]
    if ratios[0] is not None and ratios[1] is not None:
        found["compression_ratio"] = Contrast(reference=ratios[0], policy=ratios[1], change=ratios[1] - ratios[0])
    pairs = {
        "opening_share": [top_opening(arm).astype(np.float64) for arm in cut],
        "self_repetition": [self_repetition(arm) for arm in cut],
    }
    for key, (reference_P, policy_P) in pairs.items():
        low, high = bootstrap_interval(clusters_P, num_clusters, weighted_mean(policy_P - reference_P), seed=seed)
        found[key] = _contrast(float(reference_P.mean()), float(policy_P.mean()), low, high)
    lengths = [np.array([len(sample) for sample in arm], dtype=np.float64) for arm in arms]
    for key, share in {"median_words": 0.5, "p95_words": _LONG}.items():
        quantiles = [_weighted_quantile(length_P, share) for length_P in lengths]
        low, high = bootstrap_interval(clusters_P, num_clusters, _difference(*quantiles), seed=seed)
        once_1P = np.ones((1, len(policy)))
        found[key] = _contrast(float(quantiles[0](once_1P)[0]), float(quantiles[1](once_1P)[0]), low, high)
    return found


def compression_ratio(samples: Sequence[Words]) -> float | None:
    """Bytes / zlib bytes of all texts, a line each; up = more alike. Rises with the number of texts: compare equal ones."""
    data = "\n".join(" ".join(sample) for sample in samples).encode()
    return len(data) / len(zlib.compress(data)) if any(samples) else None


def top_opening(samples: Sequence[Words]) -> NDArray[np.bool_]:
    """Which texts begin with the most common first four words, [P]; a shorter text opens with all it has, an empty one not."""
    openings = [tuple(sample[:_TEMPLATE]) for sample in samples]
    counts = Counter(opening for opening in openings if opening)
    top = counts.most_common(1)[0][0] if counts else None
    return np.array([opening == top for opening in openings], dtype=np.bool_)


def self_repetition(samples: Sequence[Words]) -> Floats:
    """ln(1 + sum over a text's different 4-grams of the other texts that hold it), [P] (Salkar et al. 2022).

    Their mean grows with the number of texts: compare equal ones. Linear in the number of words.
    """
    num_texts = len(samples)
    *_, level = levels(pack([spell(samples)]), _TEMPLATE)
    pair_R = np.unique(level.gram_M * num_texts + level.text_M)
    gram_R, text_R = np.divmod(pair_R, num_texts)
    others_R = np.bincount(gram_R)[gram_R] - 1
    return np.log1p(np.bincount(text_R, weights=others_R, minlength=num_texts))


def _weighted_quantile(values_P: Floats, share: float) -> Callable[[Floats], Floats]:
    """The smallest value that at least ``share`` of the weight does not exceed, for weights [R, P]."""
    order = np.argsort(values_P, kind="stable")

    def statistic(weights_RP: Floats) -> Floats:
        reached_RP = weights_RP[:, order].cumsum(1)
        wanted_R1 = share * reached_RP[:, -1:] - 1e-9
        found: Floats = values_P[order][(reached_RP >= wanted_R1).argmax(1)]
        return found

    return statistic


def _difference(first: Callable[[Floats], Floats], second: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    return lambda weights_RP: second(weights_RP) - first(weights_RP)


def _contrast(reference: float, policy: float, low: float | None, high: float | None) -> Contrast:
    return Contrast(reference=reference, policy=policy, change=policy - reference, low=low, high=high)
