"""A diversity result with what its tests say: p and q of categories, domains, power, style shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from worker.alignment.evaluation.alarms import is_style_shift
from worker.alignment.evaluation.blocks import PromptBlock
from worker.alignment.evaluation.collapse import NO_FLOORS, category_tests, detectable_change, domain_tests
from worker.alignment.evaluation.power import category_power
from worker.alignment.events import DiversityResult, DomainResult


def with_verdicts(
    result: DiversityResult, blocks: Sequence[PromptBlock], *, seed: int, floors: Mapping[str, float] = NO_FLOORS
) -> DiversityResult:
    """``result`` completed by the collapse tests of the blocks that it was measured on.

    ``floors`` are each category's mean similarity between answers to different prompts.
    """
    tests = {test.category: test for test in category_tests(blocks, seed=seed)}
    categories = [
        replace(
            category,
            p=tests[category.category].p,
            q=tests[category.category].q,
            num_gated_prompts=tests[category.category].num_gated_prompts,
        )
        for category in result.categories
    ]
    domains = [
        DomainResult(
            domain=test.domain,
            num_categories=test.num_categories,
            num_prompts=test.num_prompts,
            change=test.change,
            p=test.p,
            p_holm=test.p_holm,
        )
        for test in domain_tests(blocks, seed=seed, floors=floors)
    ]
    return replace(
        result,
        categories=categories,
        domains=domains,
        num_categories_tested=sum(test.q is not None for test in tests.values()),
        detectable_change=detectable_change(blocks, floors=floors),
        category_power=category_power(blocks, seed=seed),
        style_shift=is_style_shift(result),
    )
