"""How varied a model's answers are: the policy against the reference, per category and over all.

Both arms are measured alike: same K, same sampler, texts cut to the same number of words before similarity is taken,
since longer texts look more varied. A prompt's figures are averaged over the category, categories over the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worker.alignment.evaluation import texts
from worker.alignment.evaluation.stats import Floats, bootstrap_interval, weighted_mean
from worker.alignment.events import DIVERSITY_KEYS, CategoryResult, Contrast, DiversityResult


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledText:
    text: str
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSamples:
    """K samples of each arm for one prompt."""

    category: str
    reference: Sequence[SampledText]
    policy: Sequence[SampledText]


def prompt_metrics(samples: Sequence[SampledText], word_limit: int) -> Floats:
    """The DIVERSITY_KEYS of one prompt's K samples, [6]; lengths and loops are taken from the uncut texts."""
    whole = [texts.words(sample.text) for sample in samples]
    cut = [tokens[:word_limit] for tokens in whole]
    values = {
        "similarity": texts.mean_pairwise_rouge_l(cut),
        "distinct_k": float(texts.distinct_k(cut)),
        "ead": texts.ead(cut),
        "mean_words": sum(map(len, whole)) / len(whole),
        "loop_rate": sum(texts.is_loop(sample.text) for sample in samples) / len(samples),
        "truncated_share": sum(sample.truncated for sample in samples) / len(samples),
    }
    return np.array([values[key] for key in DIVERSITY_KEYS])


def diversity_result(prompts: Sequence[PromptSamples], *, word_limit: int, seed: int = 0) -> DiversityResult | None:
    """Contrasts for every category, by name, and over all; None without prompts.

    The overall interval resamples categories, a category's resamples its prompts; both pairwise (policy - reference of
    the same prompt), and both absent below 30 of them.
    """
    if not prompts:
        return None
    by_category: dict[str, list[PromptSamples]] = {}
    for prompt in prompts:
        by_category.setdefault(prompt.category, []).append(prompt)
    categories, reference_CM, policy_CM = [], [], []
    for name in sorted(by_category):
        members = by_category[name]
        reference_PM = np.stack([prompt_metrics(member.reference, word_limit) for member in members])
        policy_PM = np.stack([prompt_metrics(member.policy, word_limit) for member in members])
        contrasts = _contrasts(reference_PM, policy_PM, seed)
        categories.append(CategoryResult(category=name, num_prompts=len(members), metrics=contrasts))
        reference_CM.append(reference_PM.mean(0))
        policy_CM.append(policy_PM.mean(0))
    return DiversityResult(
        num_categories=len(categories),
        num_prompts=len(prompts),
        samples_per_prompt=len(prompts[0].policy),
        overall=_contrasts(np.stack(reference_CM), np.stack(policy_CM), seed),
        categories=categories,
    )


def _contrasts(reference_UM: Floats, policy_UM: Floats, seed: int) -> dict[str, Contrast]:
    """One Contrast a metric over U units (prompts or categories)."""
    num_units = len(reference_UM)
    found = {}
    for column, key in enumerate(DIVERSITY_KEYS):
        reference, policy = reference_UM[:, column], policy_UM[:, column]
        change = policy - reference
        low, high = bootstrap_interval(np.arange(num_units), num_units, weighted_mean(change), seed=seed)
        found[key] = Contrast(
            reference=float(reference.mean()),
            policy=float(policy.mean()),
            change=float(change.mean()),
            low=low,
            high=high,
        )
    return found
