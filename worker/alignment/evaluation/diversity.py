"""How varied a model's answers are: the policy against the reference, per category and over all.

Both arms are measured alike: same K, same sampler, texts cut to the same number of words before similarity is taken,
since longer texts look more varied. A prompt's figures are averaged over the category, categories over the whole; what
speaks of variety only over open-ended categories, since sameness is no fault where one answer is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.across import across_contrasts
from worker.alignment.evaluation.measures import (
    Measured,
    Passes,
    PromptSamples,
    SampledText,
    measure,
    similarity_block,
)
from worker.alignment.evaluation.refusals import classify
from worker.alignment.evaluation.stats import Floats, bootstrap_interval, weighted_mean
from worker.alignment.events import DIVERSITY_KEYS, CategoryResult, Contrast, DiversityResult

__all__ = ["Passes", "PromptSamples", "SampledText", "diversity_result", "similarity_block"]

SENTINEL_KEYS = ("mean_words", "loop_rate", "truncated_share", "refusal_share", "empty_share")
"""Averaged over all categories; the others over the open-ended ones, where there are any."""

Embed = Callable[[Sequence[str]], Floats]
"""Texts to vectors, [N, D]; need not be of length 1."""


def diversity_result(
    prompts: Sequence[PromptSamples],
    *,
    word_limit: int,
    seed: int = 0,
    passes: Passes | None = None,
    quality_rule: str = "",
    embed: Embed | None = None,
) -> DiversityResult | None:
    """Contrasts for every category, by name, over domains and over all; None without prompts.

    The overall interval resamples categories, a category's resamples its prompts; both pairwise (policy - reference of
    the same prompt). ``passes`` is the quality rule that ``quality_rule`` names; without one every sample passes. With
    ``embed`` there is the key ``semantic``. Raises ValueError unless all prompts have the same K >= 2 in both arms.
    """
    if not prompts:
        return None
    measured = measure(prompts, word_limit, passes=passes, refuses=lambda text: classify(text) != "none", seed=seed)
    names_P = np.array([prompt.category for prompt in prompts])
    names_C, category_P = np.unique(names_P, return_inverse=True)
    values = measured.values | {"similarity_normalised": _normalised(measured, category_P, len(names_C))}
    if embed is not None:
        values["semantic"] = _semantic(prompts, embed)
    members = [np.flatnonzero(category_P == number) for number in range(len(names_C))]
    first_C = [prompts[rows[0]] for rows in members]
    categories = [
        CategoryResult(
            category=first.category,
            num_prompts=len(rows),
            metrics=_contrasts({key: value_P2[rows] for key, value_P2 in values.items()}, seed),
            domain=first.domain,
            open_ended=first.open_ended,
            num_gated_prompts=int(np.isfinite(measured.values["similarity_gated"][rows, 0]).sum()),
        )
        for first, rows in zip(first_C, members, strict=True)
    ]
    return DiversityResult(
        num_categories=len(categories),
        num_prompts=len(prompts),
        samples_per_prompt=len(prompts[0].policy),
        overall=_overall(values, members, np.array([first.open_ended for first in first_C]), seed),
        categories=categories,
        across=across_contrasts(*measured.first, word_limit, names_P, seed=seed),
        quality_rule=quality_rule,
    )


def _normalised(measured: Measured, category_P: NDArray[np.int64], num_categories: int) -> Floats:
    """Gated similarity between the category's floor (0) and identical texts (1), [P, 2].

    The floor is the reference's in both arms: a policy that answers every prompt alike must not raise its own.
    """
    known_P = np.isfinite(measured.floor_P)
    count_C = np.bincount(category_P[known_P], minlength=num_categories)
    sum_C = np.bincount(category_P[known_P], weights=measured.floor_P[known_P], minlength=num_categories)
    overall = measured.floor_P[known_P].mean() if known_P.any() else np.nan
    floor_P1 = np.where(count_C > 0, sum_C / np.maximum(count_C, 1), overall)[category_P][:, None]
    room_P1 = np.where(floor_P1 < 1 - 1e-9, 1 - floor_P1, np.nan)  # none where all prompts are answered alike
    result: Floats = (measured.values["similarity_gated"] - floor_P1) / room_P1
    return result


def _semantic(prompts: Sequence[PromptSamples], embed: Embed) -> Floats:
    """Mean pairwise cosine of each prompt's samples, [P, 2]."""
    vectors_SD = np.asarray(embed([sample.text for prompt in prompts for sample in prompt.both]), dtype=np.float64)
    lengths_S1 = np.linalg.norm(vectors_SD, axis=1, keepdims=True)
    unit_PKD = (vectors_SD / np.maximum(lengths_S1, 1e-12)).reshape(2 * len(prompts), -1, vectors_SD.shape[1])
    num = unit_PKD.shape[1]
    squares_P = (unit_PKD**2).sum((1, 2))
    result: Floats = ((unit_PKD.sum(1) ** 2).sum(1) - squares_P) / (num * (num - 1))
    return result.reshape(-1, 2)


def _overall(
    values: dict[str, Floats], members: Sequence[NDArray[np.int64]], open_ended_C: NDArray[np.bool_], seed: int
) -> dict[str, Contrast]:
    counted_C = open_ended_C if open_ended_C.any() else np.ones_like(open_ended_C)
    by_category = {}
    for key, value_P2 in values.items():
        value_C2 = np.stack([_mean(value_P2[rows]) for rows in members])
        by_category[key] = value_C2 if key in SENTINEL_KEYS else value_C2[counted_C]
    return _contrasts(by_category, seed)


def _contrasts(values: dict[str, Floats], seed: int) -> dict[str, Contrast]:
    """One Contrast a metric over U units (prompts or categories), [U, 2]; a metric that no unit has is left out."""
    found = {}
    for key in DIVERSITY_KEYS:
        value_U2 = values.get(key)
        if value_U2 is None:
            continue
        value_U2 = value_U2[np.isfinite(value_U2).all(1)]
        if len(value_U2) == 0:
            continue
        reference, policy = value_U2.mean(0)
        change_U = value_U2[:, 1] - value_U2[:, 0]
        low, high = bootstrap_interval(np.arange(len(change_U)), len(change_U), weighted_mean(change_U), seed=seed)
        found[key] = Contrast(
            reference=float(reference), policy=float(policy), change=float(change_U.mean()), low=low, high=high
        )
    return found


def _mean(value_P2: Floats) -> Floats:
    """Over the prompts that have the figure; NaN where none has."""
    known_P2 = value_P2[np.isfinite(value_P2).all(1)]
    result: Floats = known_P2.mean(0) if len(known_P2) else np.full(2, np.nan)
    return result
