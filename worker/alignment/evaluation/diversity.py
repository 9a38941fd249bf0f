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
from worker.alignment.evaluation.collapse import category_tests, detectable_change, domain_tests
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
from worker.alignment.events import DIVERSITY_KEYS, CategoryResult, Contrast, DiversityResult, DomainResult

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
    measured: Measured | None = None,
) -> DiversityResult | None:
    """Contrasts for every category, by name, over domains and over all; None without prompts.

    The overall interval resamples categories, a category's resamples its prompts; both pairwise (policy - reference of
    the same prompt). ``passes`` is the quality rule that ``quality_rule`` names; without one every sample passes. With
    ``embed`` there is the key ``semantic``; ``measured`` are the prompts' figures where they were taken before. Raises
    ValueError unless all prompts have the same K >= 2 in both arms.
    """
    if not prompts:
        return None
    if measured is None:
        measured = measure(prompts, word_limit, passes=passes, refuses=lambda text: classify(text) != "none", seed=seed)
    names_P = np.array([prompt.category for prompt in prompts])
    names_C, category_P = np.unique(names_P, return_inverse=True)
    members = [np.flatnonzero(category_P == number) for number in range(len(names_C))]
    floor_C = _floors(measured.floor_P, members)
    values = measured.values | {
        "similarity_normalised": _normalised(measured.values["similarity_gated"], floor_C[category_P][:, None])
    }
    if embed is not None:
        values["semantic"] = _semantic(prompts, embed)
    tests = {test.category: test for test in category_tests(measured.blocks, seed=seed)}
    categories = []
    for rows in members:
        first = prompts[rows[0]]
        test = tests[first.category]
        categories.append(
            CategoryResult(
                category=first.category,
                num_prompts=len(rows),
                metrics=_contrasts({key: value_P2[rows] for key, value_P2 in values.items()}, seed),
                domain=first.domain,
                open_ended=first.open_ended,
                p=test.p,
                q=test.q,
                num_gated_prompts=test.num_gated_prompts,
            )
        )
    floors = {str(name): float(floor) for name, floor in zip(names_C, floor_C, strict=True) if np.isfinite(floor)}
    return DiversityResult(
        num_categories=len(categories),
        num_prompts=len(prompts),
        samples_per_prompt=len(prompts[0].policy),
        overall=_overall(values, members, np.array([found.open_ended for found in categories]), seed),
        categories=categories,
        domains=[
            DomainResult(
                domain=test.domain,
                num_categories=test.num_categories,
                num_prompts=test.num_prompts,
                change=test.change,
                p=test.p,
                p_holm=test.p_holm,
            )
            for test in domain_tests(measured.blocks, seed=seed, floors=floors)
        ],
        across=across_contrasts(*measured.first, word_limit, names_P, seed=seed),
        quality_rule=quality_rule,
        num_categories_tested=sum(found.p is not None for found in categories),
        detectable_change=detectable_change(measured.blocks, floors=floors),
    )


def _floors(floor_P: Floats, members: Sequence[NDArray[np.int64]]) -> Floats:
    """Each category's similarity between answers to different prompts, [C]; the mean of all where it has none of its own.

    It is the reference's and holds for both arms: a policy that answers every prompt alike must not raise its own.
    """
    known_P = np.isfinite(floor_P)
    overall = floor_P[known_P].mean() if known_P.any() else np.nan
    return np.array([floor_P[rows][known_P[rows]].mean() if known_P[rows].any() else overall for rows in members])


def _normalised(similarity_P2: Floats, floor_P1: Floats) -> Floats:
    """Between the floor (0) and identical texts (1); NaN where the reference answers all prompts alike."""
    result: Floats = (similarity_P2 - floor_P1) / np.where(floor_P1 < 1 - 1e-9, 1 - floor_P1, np.nan)
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
