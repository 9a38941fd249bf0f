"""The label permutation test on prompts whose samples are points on a circle: similarity is how close they lie."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from worker.alignment.evaluation.blocks import PromptBlock
from worker.alignment.evaluation.collapse import category_tests, detectable_change, domain_tests, global_change
from worker.alignment.evaluation.permutation import Part, Relabelings, difference, gated_part, num_labelings
from worker.alignment.evaluation.power import category_power, collapsed


def block(
    rng: np.random.Generator,
    category: str,
    *,
    num: int = 6,
    collapse: float = 0.0,
    domain: str = "",
    open_ended: bool = True,
    passes: np.ndarray | None = None,
) -> PromptBlock:
    angles = rng.random(2 * num) * np.pi
    angles[num:][rng.random(num) < collapse] = angles[num]
    return PromptBlock(
        category=category,
        domain=domain,
        open_ended=open_ended,
        similarity_NN=np.abs(np.cos(angles[:, None] - angles[None, :])),
        num_reference=num,
        passes_N=np.ones(2 * num, dtype=bool) if passes is None else passes,
    )


def blocks(num_categories: int, num_collapsed: int, *, seed: int = 0, prompts: int = 8) -> list[PromptBlock]:
    rng = np.random.default_rng(seed)
    return [
        block(rng, f"c{c:03d}", collapse=0.75 if c < num_collapsed else 0.0, domain=f"d{c // 10}")
        for c in range(num_categories)
        for _ in range(prompts)
    ]


def naive_values(part: Part) -> list[float]:
    """S_policy - S_reference of every labeling, by the definition."""
    size, found = len(part.similarity_NN), []
    for policy in combinations(range(size), size - part.num_reference):
        rest = [i for i in range(size) if i not in policy]
        means = [np.mean([part.similarity_NN[i, j] for i, j in combinations(arm, 2)]) for arm in (policy, rest)]
        found.append(float(means[0] - means[1]))
    return found


@pytest.mark.parametrize(("num_reference", "num_policy"), [(3, 3), (2, 4), (5, 2)])
def test_every_labeling_is_valued_by_the_definition(num_reference: int, num_policy: int) -> None:
    points = np.random.default_rng(1).random((num_reference + num_policy, 2))
    part = Part(similarity_NN=points @ points.T, num_reference=num_reference)
    values = Relabelings([part]).values[0]
    assert len(values) == comb(num_reference + num_policy, num_policy) == num_labelings([part])
    assert np.sort(values) == pytest.approx(np.sort(naive_values(part)))
    assert difference(part) == pytest.approx(naive_values(part)[-1])


def test_the_p_value_of_one_prompt_is_the_exact_one() -> None:
    part = gated_part(block(np.random.default_rng(3), "c", num=4, collapse=0.5))
    assert part is not None
    exact = np.mean(np.array(naive_values(part)) >= difference(part) - 1e-7)
    found = Relabelings([part]).p_value([0], np.random.default_rng(0), 20_000)
    assert found == pytest.approx(exact, abs=0.01)


def test_planted_collapses_are_found_and_no_others() -> None:
    tests = category_tests(blocks(60, 6), seed=0)
    assert [test.category for test in tests] == [f"c{c:03d}" for c in range(60)]
    found = {test.category for test in tests if test.q is not None and test.q < 0.05}
    assert {f"c{c:03d}" for c in range(6)} <= found
    assert len(found) <= 7


def test_one_collapsed_category_among_many_can_be_found() -> None:
    """1 / (B + 1) of 10,000 permutations times 600 categories is above 0.05: small p-values get more of them."""
    rng = np.random.default_rng(0)
    total = [block(rng, "gone", collapse=0.9) for _ in range(8)]
    total += [block(rng, f"c{c}", num=3) for c in range(600) for _ in range(2)]
    tests = {test.category: test for test in category_tests(total, seed=0)}
    assert tests["gone"].p is not None
    assert tests["gone"].p < 1e-4
    assert tests["gone"].q is not None
    assert tests["gone"].q < 0.05


def test_p_values_of_unchanged_categories_are_uniform() -> None:
    p = np.array([test.p for test in category_tests(blocks(400, 0, prompts=3), seed=1, num_permutations=1000)])
    assert abs((p < 0.1).mean() - 0.1) < 0.045
    assert abs((p < 0.5).mean() - 0.5) < 0.08


def test_only_passing_samples_count_and_arms_may_keep_different_numbers() -> None:
    passes = np.array([True] * 2 + [False] * 4 + [True] * 5 + [False])
    rng = np.random.default_rng(0)
    kept = block(rng, "c", passes=passes)
    part = gated_part(kept)
    assert part is not None
    assert (part.num_reference, len(part.similarity_NN)) == (2, 7)
    upper = kept.similarity_NN[6:11, 6:11][np.triu_indices(5, 1)].mean()
    assert difference(part) == pytest.approx(upper - kept.similarity_NN[0, 1])
    too_few = block(rng, "d", passes=np.array([True] + [False] * 5 + [True] * 6))
    assert gated_part(too_few) is None
    by_name = {test.category: test for test in category_tests([kept] * 4 + [too_few], seed=0)}
    assert by_name["c"].num_gated_prompts == 4
    assert (by_name["d"].num_gated_prompts, by_name["d"].p, by_name["d"].q) == (0, None, None)


def test_closed_forms_and_hopeless_categories_are_not_tested() -> None:
    rng = np.random.default_rng(0)
    closed = [block(rng, "sums", collapse=0.9, open_ended=False, domain="d") for _ in range(8)]
    small = [block(rng, "small", num=2)]  # 6 labelings: no p below 0.17
    tests = {test.category: test for test in category_tests(closed + small, seed=0)}
    assert tests["sums"].p is tests["small"].p is None
    assert domain_tests(closed, seed=0) == []
    assert global_change(closed, seed=0) is None


def test_a_domain_gathers_what_its_categories_hide() -> None:
    rng = np.random.default_rng(5)
    total = [
        block(rng, f"c{c}", num=4, collapse=0.3 if c < 20 else 0.0, domain="told" if c < 20 else f"d{c % 4}")
        for c in range(100)
        for _ in range(2)
    ]
    domains = {test.domain: test for test in domain_tests(total, seed=0)}
    assert domains["told"].p_holm < 0.05
    assert min(test.p_holm for name, test in domains.items() if name != "told") > 0.05
    assert (domains["told"].num_categories, domains["told"].num_prompts) == (20, 40)
    assert domains["told"].change.change > 0.05


def test_the_global_change_is_normalised_by_the_floors() -> None:
    total = blocks(80, 80, prompts=2)
    plain = global_change(total, seed=0)
    raised = global_change(total, seed=0, floors={f"c{c:03d}": 0.5 for c in range(80)})
    assert plain is not None
    assert raised is not None
    assert raised.change == pytest.approx(2 * plain.change)
    assert raised.reference == pytest.approx(2 * plain.reference - 1)
    assert raised.low is not None
    assert 0 < raised.low < raised.change
    smallest = detectable_change(blocks(80, 0, prompts=2))
    assert smallest is not None
    assert 0 < smallest < plain.change


def test_power_grows_with_prompts_and_with_the_collapse() -> None:
    many = category_power(blocks(40, 0), seed=0, num_simulated=80)
    few = category_power(blocks(40, 0, prompts=1), seed=0, num_simulated=80)
    none = category_power(blocks(40, 0), 0.0, seed=0, num_simulated=80)
    assert many is not None
    assert few is not None
    assert none is not None
    assert many > 0.5
    assert few < 0.25
    assert none < 0.1
    assert category_power([]) is None


def test_a_collapse_replaces_samples_by_the_policys_own_mode() -> None:
    part = gated_part(block(np.random.default_rng(0), "c"))
    assert part is not None
    gone = collapsed(part, 1.0, np.random.default_rng(0))
    assert gone.similarity_NN[6:, 6:] == pytest.approx(np.ones((6, 6)))
    assert np.array_equal(gone.similarity_NN[:6, :6], part.similarity_NN[:6, :6])
    mode = 6 + int(part.similarity_NN[6:, 6:].sum(1).argmax())
    assert gone.similarity_NN[8, :6] == pytest.approx(part.similarity_NN[mode, :6])
