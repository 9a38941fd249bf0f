"""One look at a run's diversity: figures, tests and alarms together, as both the screen and a full evaluation take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.alarms import alarms_of, is_style_shift
from worker.alignment.evaluation.diversity import Embed, diversity_result
from worker.alignment.evaluation.intervals import mean_interval
from worker.alignment.evaluation.measures import Passes, PromptSamples, measure
from worker.alignment.evaluation.power import category_power
from worker.alignment.evaluation.quality import LabelModel, gated, quality_rule
from worker.alignment.evaluation.refusals import classify
from worker.alignment.evaluation.texts import Bools
from worker.alignment.events import Alarm, Contrast, DiversityResult


def assess(
    prompts: Sequence[PromptSamples],
    *,
    word_limit: int,
    seed: int,
    label_model: LabelModel | None = None,
    previous: DiversityResult | None = None,
    embed: Embed | None = None,
) -> tuple[DiversityResult | None, list[Alarm]]:
    """The result, with the power of its tests and whether a style has spread, and the alarms; nothing without prompts.

    ``label_model`` gates samples by what the training rows' votes call desirable; ``previous`` is the look before this
    one. Raises ValueError unless all prompts have the same K >= 2 in both arms.
    """
    if not prompts:
        return None, []
    texts = [sample.text for prompt in prompts for sample in prompt.both]
    looks_S = label_model.desirable(texts) if label_model is not None else None
    passes = gate(looks_S, len(prompts[0].reference)) if looks_S is not None else None
    measured = measure(prompts, word_limit, passes=passes, refuses=lambda text: classify(text) != "none", seed=seed)
    found = diversity_result(
        prompts,
        word_limit=word_limit,
        seed=seed,
        quality_rule=quality_rule(label_model),
        embed=embed,
        measured=measured,
    )
    assert found is not None, "there are prompts"
    open_ended = {category.category for category in found.categories if category.open_ended}
    open_P = np.array([prompt.category in open_ended for prompt in prompts])
    found = replace(
        found,
        num_open_prompts=int(open_P.sum()),
        num_compared_prompts=sum(category.num_gated_prompts for category in found.categories if category.open_ended),
    )
    if looks_S is not None and label_model is not None and label_model.informative and open_P.any():
        names_P = np.array([prompt.category for prompt in prompts])
        found = replace(found, desirable=desirable_share(looks_S.reshape(len(prompts), 2, -1)[open_P], names_P[open_P]))
    result = replace(
        found, category_power=category_power(measured.blocks, seed=seed), style_shift=is_style_shift(found)
    )
    return result, alarms_of(result, previous)


def desirable_share(looks_P2K: Bools, names_P: NDArray[np.str_]) -> Contrast:
    """Share of samples that look desirable in the reference and the policy; its interval resamples categories."""
    reference, policy = looks_P2K.mean((0, 2))
    change_P = looks_P2K[:, 1].mean(1) - looks_P2K[:, 0].mean(1)
    low, high = mean_interval(change_P, names_P)
    return Contrast(reference=float(reference), policy=float(policy), change=float(change_P.mean()), low=low, high=high)


def gate(looks_S: Bools, num_samples: int) -> Passes:
    """The quality rule over all samples, K of the reference and K of the policy for each prompt."""

    def passes(texts: Sequence[str]) -> Bools:
        assert len(texts) == len(looks_S), "the gate is of these samples alone"
        return np.concatenate([gated(looks_N, num_samples) for looks_N in looks_S.reshape(-1, 2 * num_samples)])

    return passes
