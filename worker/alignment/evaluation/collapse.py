"""Whether the policy's answers became more alike: per category, per domain, over all.

All of it looks at the samples that pass the quality rule, in prompts that keep two of them in both arms, and at
open-ended categories only: where one answer is right, similarity is accuracy. Similarity is normalised between its floor
in the category (answers to different prompts: 0) and equal texts (1).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.blocks import PromptBlock
from worker.alignment.evaluation.intervals import mean_interval
from worker.alignment.evaluation.permutation import (
    LEVEL,
    NUM_PERMUTATIONS,
    Part,
    Relabelings,
    arm_means,
    gated_part,
    num_labelings,
)
from worker.alignment.evaluation.power import detectable
from worker.alignment.evaluation.significance import benjamini_hochberg, holm
from worker.alignment.events import Contrast

Floats = NDArray[np.float64]

NO_FLOORS: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryTest:
    category: str
    p: float | None
    """One-sided, towards more alike; None where it was not tested: a closed-form category, or samples too few to tell."""
    q: float | None
    """Benjamini-Hochberg over the tested categories."""
    num_gated_prompts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainTest:
    domain: str
    num_categories: int
    """Open-ended ones with a gated prompt."""
    num_prompts: int
    change: Contrast
    """Of the normalised similarity, mean over the domain's categories."""
    p: float
    p_holm: float


def category_tests(
    blocks: Sequence[PromptBlock], *, seed: int, num_permutations: int = NUM_PERMUTATIONS
) -> list[CategoryTest]:
    """One test for every category, by name: T = sum over prompts of S_policy - S_reference, labels permuted within prompts.

    A category whose samples allow no p below LEVEL at all is not tested and does not weaken the others' q.
    """
    groups = _groups(blocks)
    tested = [name for name, group in groups.items() if group.open_ended and num_labelings(group.parts) > 1 / LEVEL]
    parts = [part for name in tested for part in groups[name].parts]
    relabelings, rng = Relabelings(parts), np.random.default_rng(seed)
    p_values, start = [], 0
    for name in tested:
        end = start + len(groups[name].parts)
        p_values.append(relabelings.p_value(range(start, end), rng, num_permutations))
        start = end
    found = dict(zip(tested, zip(p_values, benjamini_hochberg(p_values), strict=True), strict=True))
    tests = []
    for name, group in groups.items():
        p, q = found.get(name, (None, None))
        tests.append(CategoryTest(category=name, p=p, q=q, num_gated_prompts=len(group.parts)))
    return tests


def domain_tests(
    blocks: Sequence[PromptBlock],
    *,
    seed: int,
    floors: Mapping[str, float] = NO_FLOORS,
    num_permutations: int = NUM_PERMUTATIONS,
) -> list[DomainTest]:
    """The same test over all prompts of a domain, by name; blocks without a domain and closed-form ones are left out.

    ``floors`` are each category's mean similarity between different prompts' answers; 0 where it is absent.
    """
    by_domain: dict[str, list[PromptBlock]] = defaultdict(list)
    for block in blocks:
        if block.domain and block.open_ended:
            by_domain[block.domain].append(block)
    rows = []
    for number, domain in enumerate(sorted(by_domain)):
        parts = [part for block in by_domain[domain] if (part := gated_part(block)) is not None]
        if num_labelings(parts) > 1 / LEVEL:
            rng = np.random.default_rng([seed, number])
            p = Relabelings(parts).p_value(range(len(parts)), rng, num_permutations)
            rows.append((domain, p, len(parts), category_changes(by_domain[domain], floors)))
    adjusted = holm([p for _, p, *_ in rows])
    return [
        DomainTest(
            domain=domain,
            num_categories=len(changes),
            num_prompts=num_prompts,
            change=_contrast(list(changes.values()), seed),
            p=p,
            p_holm=p_holm,
        )
        for (domain, p, num_prompts, changes), p_holm in zip(rows, adjusted, strict=True)
    ]


def category_changes(
    blocks: Sequence[PromptBlock], floors: Mapping[str, float] = NO_FLOORS
) -> dict[str, tuple[float, float]]:
    """(reference, policy) of the normalised gated similarity for every open-ended category with a gated prompt."""
    found = {}
    for name, group in _groups(blocks).items():
        if group.open_ended and group.parts:
            reference, policy = np.array([arm_means(part) for part in group.parts]).mean(0)
            floor = min(floors.get(name, 0.0), 0.99)
            found[name] = (float((reference - floor) / (1 - floor)), float((policy - floor) / (1 - floor)))
    return found


def global_change(
    blocks: Sequence[PromptBlock], *, seed: int, floors: Mapping[str, float] = NO_FLOORS
) -> Contrast | None:
    """Normalised gated similarity, mean over open-ended categories, with an interval that resamples categories."""
    changes = list(category_changes(blocks, floors).values())
    return _contrast(changes, seed) if changes else None


def detectable_change(blocks: Sequence[PromptBlock], *, floors: Mapping[str, float] = NO_FLOORS) -> float | None:
    """The change of the overall normalised similarity that is found with 80 % power at the two-sided 5 % level.

    None below 5 categories.
    """
    pairs = list(category_changes(blocks, floors).values())
    if len(pairs) < 5:
        return None
    return detectable(np.array([policy - reference for reference, policy in pairs]))


@dataclass(slots=True)
class _Group:
    open_ended: bool
    parts: list[Part]


def _groups(blocks: Sequence[PromptBlock]) -> dict[str, _Group]:
    """Categories by name with the parts of their prompts; open-ended where every block says so."""
    groups: dict[str, _Group] = {}
    for block in sorted(blocks, key=lambda block: block.category):
        group = groups.setdefault(block.category, _Group(open_ended=True, parts=[]))
        group.open_ended &= block.open_ended
        if (part := gated_part(block)) is not None:
            group.parts.append(part)
    return groups


def _contrast(pairs: Sequence[tuple[float, float]], seed: int) -> Contrast:
    reference_C, policy_C = np.array(pairs).T
    low, high = mean_interval(policy_C - reference_C, np.arange(len(pairs)), seed=seed)
    reference, policy = float(reference_C.mean()), float(policy_C.mean())
    return Contrast(reference=reference, policy=policy, change=policy - reference, low=low, high=high)
