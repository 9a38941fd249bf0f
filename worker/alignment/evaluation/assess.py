"""One look at a run's diversity: figures, tests and alarms together, as both the screen and a full evaluation take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from worker.alignment.evaluation.alarms import alarms_of, is_style_shift
from worker.alignment.evaluation.diversity import Embed, diversity_result
from worker.alignment.evaluation.measures import Passes, PromptSamples, measure
from worker.alignment.evaluation.power import category_power
from worker.alignment.evaluation.quality import LabelModel, gated, quality_rule
from worker.alignment.evaluation.refusals import classify
from worker.alignment.evaluation.texts import Bools
from worker.alignment.events import Alarm, DiversityResult


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
    passes = gate(label_model, len(prompts[0].reference)) if label_model is not None else None
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
    result = replace(
        found, category_power=category_power(measured.blocks, seed=seed), style_shift=is_style_shift(found)
    )
    return result, alarms_of(result, previous)


def gate(model: LabelModel, num_samples: int) -> Passes:
    """The quality rule over all samples, K of the reference and K of the policy for each prompt."""

    def passes(texts: Sequence[str]) -> Bools:
        looks_PN = model.desirable(texts).reshape(-1, 2 * num_samples)
        return np.concatenate([gated(looks_N, num_samples) for looks_N in looks_PN])

    return passes
