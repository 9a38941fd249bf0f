from __future__ import annotations

import random

import numpy as np
import pytest

from worker.alignment.evaluation.diversity import PromptSamples, SampledText, diversity_result, similarity_block
from worker.alignment.evaluation.measures import measure
from worker.alignment.events import ACROSS_KEYS, DIVERSITY_KEYS

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def sampled(*items: str, truncated: bool = False) -> list[SampledText]:
    return [SampledText(text=item, truncated=truncated) for item in items]


def drawn(rng: random.Random, num: int = 4, size: int = 12) -> list[SampledText]:
    return sampled(*(" ".join(rng.choices(LETTERS, k=size)) for _ in range(num)))


def prompts_of(num: int, per_category: int = 1, **changes: object) -> list[PromptSamples]:
    """Prompts whose arms are drawn alike."""
    rng = random.Random(0)
    return [
        PromptSamples(category=f"c{i // per_category:03d}", reference=drawn(rng), policy=drawn(rng), **changes)  # type: ignore[arg-type]
        for i in range(num)
    ]


def test_the_word_limit_applies_to_what_compares_texts() -> None:
    prompt = PromptSamples(category="c", reference=sampled("a b c d", "a b y z"), policy=sampled("a b", "a b"))
    values = measure([prompt], 2).values
    assert values["similarity"].tolist() == [[1.0, 1.0]]
    assert values["distinct_k"].tolist() == [[1.0, 1.0]]
    assert values["ead"][0, 0] == values["ead"][0, 1]
    assert values["mean_words"].tolist() == [[4.0, 2.0]]


def test_contrasts_average_prompts_then_categories_and_pair_the_arms() -> None:
    same, other = sampled("x y", "x y"), sampled("p q", "r s")
    prompts = [
        PromptSamples(category="a", reference=other, policy=same),
        PromptSamples(category="b", reference=other, policy=other),
        PromptSamples(category="b", reference=other, policy=other),
        PromptSamples(category="b", reference=same, policy=same),
    ]
    result = diversity_result(prompts, word_limit=100)
    assert result is not None
    assert [(c.category, c.num_prompts) for c in result.categories] == [("a", 1), ("b", 3)]
    overall = result.overall["similarity"]
    assert (overall.reference, overall.policy, overall.change) == pytest.approx((1 / 6, 2 / 3, 0.5))
    assert overall.low is None
    assert set(result.overall) == set(DIVERSITY_KEYS) - {"semantic"}
    assert set(result.across) == set(ACROSS_KEYS)
    assert result.categories[0].metrics["distinct_k"].change == -1
    assert diversity_result([], word_limit=100) is None


def test_the_overall_interval_resamples_categories() -> None:
    rng = random.Random(0)
    prompts = []
    for number in range(40):
        reference = drawn(rng)
        policy = [reference[0]] * 3 + reference[3:] if number % 2 else reference  # half of the categories collapsed
        prompts.append(PromptSamples(category=f"c{number}", reference=reference, policy=policy))
    result = diversity_result(prompts, word_limit=100)
    assert result is not None
    for key in ("similarity", "similarity_normalised"):
        change = result.overall[key]
        assert change.low is not None
        assert change.high is not None
        assert 0 < change.low < change.change < change.high
    unchanged = result.overall["truncated_share"]
    assert (unchanged.change, unchanged.low) == (0.0, None)  # forty equal values tell nothing of their spread


def test_similarity_is_normalised_between_other_prompts_and_identical_texts() -> None:
    """Answers of a prompt no more alike than those of different prompts are at 0, identical ones at 1."""
    rng = random.Random(1)
    prompts = [PromptSamples(category=f"c{i}", reference=drawn(rng), policy=[drawn(rng, 1)[0]] * 4) for i in range(120)]
    result = diversity_result(prompts, word_limit=100)
    assert result is not None
    contrast = result.overall["similarity_normalised"]
    assert contrast.reference == pytest.approx(0, abs=0.02)
    assert contrast.policy == pytest.approx(1)
    assert result.overall["similarity"].reference > 0.2
    swapped = [PromptSamples(category=p.category, reference=p.policy, policy=p.reference) for p in prompts]
    for prompt in swapped:  # the reference gives the floor, for the policy's one answer to all prompts is a collapse
        object.__setattr__(prompt, "policy", sampled(*["the same answer"] * 4))
    told = diversity_result(swapped, word_limit=100)
    assert told is not None
    assert told.overall["similarity_normalised"].policy == pytest.approx(1)
    assert told.overall["similarity_normalised"].change == pytest.approx(0)


def test_a_reference_with_one_answer_to_everything_has_no_room_to_normalise() -> None:
    same = sampled("no", "no")
    prompts = [PromptSamples(category=f"c{i}", reference=same, policy=same) for i in range(3)]
    result = diversity_result(prompts, word_limit=100)
    assert result is not None
    assert "similarity_normalised" not in result.overall
    assert result.overall["similarity_gated"].policy == 1


def test_the_quality_rule_gates_samples_in_both_arms() -> None:
    prompts = [
        PromptSamples(
            category="a",
            reference=sampled("bad bad", "red", "green", "blue"),
            policy=sampled("red", "red", "bad one", "bad two"),
        ),
        PromptSamples(
            category="a", reference=sampled("p", "q", "r", "s"), policy=sampled("p", "bad 1", "bad 2", "bad 3")
        ),
        PromptSamples(category="b", reference=sampled("p", "q", "r", "s"), policy=sampled(*["bad"] * 4)),
    ]
    asked: list[int] = []

    def passes(texts: object) -> np.ndarray:
        asked.append(len(list(texts)))  # type: ignore[call-overload]
        return np.array(["bad" not in text for text in texts])  # type: ignore[attr-defined]

    result = diversity_result(prompts, word_limit=100, passes=passes, quality_rule="not bad")
    assert result is not None
    assert asked == [24]
    first, second = result.categories
    gated = first.metrics["similarity_gated"]
    assert (gated.reference, gated.policy) == (0, 1)
    distinct = first.metrics["distinct_k_gated"]
    assert (distinct.reference, distinct.policy) == (2, 1)  # of two in each arm, though three passed in one
    assert (first.num_gated_prompts, second.num_gated_prompts) == (1, 0)
    assert "similarity_gated" not in second.metrics
    assert second.metrics["similarity"].policy == 1
    assert result.overall["similarity_gated"].change == 1
    assert result.quality_rule == "not bad"


def test_closed_form_categories_are_no_part_of_the_overall_variety() -> None:
    same, other = sampled("x y", "x y"), sampled("p q", "r s", truncated=True)
    prompts = [
        PromptSamples(category="open", reference=other, policy=other, domain="writing"),
        PromptSamples(category="sums", reference=other, policy=same, domain="maths", open_ended=False),
    ]
    result = diversity_result(prompts, word_limit=100)
    assert result is not None
    assert result.overall["similarity"].change == 0
    assert result.overall["truncated_share"].change == -0.5
    assert [(c.domain, c.open_ended) for c in result.categories] == [("writing", True), ("maths", False)]
    assert result.categories[1].metrics["similarity"].change == 1
    only = diversity_result(prompts[1:], word_limit=100)
    assert only is not None
    assert only.overall["similarity"].change == 1


def test_unequal_numbers_of_samples_are_refused() -> None:
    fine = PromptSamples(category="a", reference=sampled("x", "y"), policy=sampled("x", "y"))
    for wrong in (
        PromptSamples(category="a", reference=sampled("x", "y"), policy=sampled("x", "y", "z")),
        PromptSamples(category="a", reference=sampled("x", "y", "z"), policy=sampled("x", "y", "z")),
        PromptSamples(category="a", reference=[], policy=[]),
    ):
        with pytest.raises(ValueError, match="Give the same number"):
            diversity_result([fine, wrong], word_limit=100)
    with pytest.raises(ValueError, match="at least 2"):
        diversity_result([PromptSamples(category="a", reference=sampled("x"), policy=sampled("y"))], word_limit=9)


def test_figures_do_not_depend_on_the_order_or_company_of_prompts() -> None:
    prompts = prompts_of(130)
    whole = measure(prompts, 10)
    alone = measure(prompts[7:8], 10)
    backwards = measure(prompts[::-1], 10)
    for key, value in whole.values.items():
        assert value[7].tolist() == alone.values[key][0].tolist()
        assert np.array_equal(value, backwards.values[key][::-1])
    assert np.array_equal(whole.blocks[7].similarity_NN, similarity_block(prompts[7], 10).similarity_NN)
    assert [len(first) for first in whole.first] == [130, 130]
    assert whole.first[1][3] == prompts[3].policy[0].text.split()
    assert np.isnan(alone.floor_P).all()
    assert np.isfinite(whole.floor_P).all()


def test_the_block_holds_the_reference_first() -> None:
    prompt = PromptSamples(
        category="c", reference=sampled("a b", "a b c"), policy=sampled("x", "a"), domain="d", open_ended=False
    )
    block = similarity_block(prompt, 2, lambda texts: np.array([text != "x" for text in texts]))
    assert block.similarity_NN[0].tolist() == pytest.approx([1, 1, 0, 2 / 3])
    assert np.array_equal(block.similarity_NN, block.similarity_NN.T)
    assert (block.num_reference, len(block.passes_N)) == (2, 4)
    assert block.passes_N.tolist() == [True, True, False, True]
    assert (block.category, block.domain, block.open_ended) == ("c", "d", False)


def test_semantic_similarity_is_the_mean_cosine() -> None:
    prompt = PromptSamples(category="c", reference=sampled("a", "b", "c"), policy=sampled("a", "a", "a"))
    vectors = {"a": [2.0, 0.0], "b": [0.0, 3.0], "c": [-1.0, 0.0]}
    result = diversity_result([prompt], word_limit=9, embed=lambda texts: np.array([vectors[text] for text in texts]))
    assert result is not None
    contrast = result.overall["semantic"]
    assert (contrast.reference, contrast.policy) == pytest.approx((-1 / 3, 1))


def test_refusals_and_empty_answers_are_counted() -> None:
    prompt = PromptSamples(
        category="c",
        reference=sampled("Here are three ideas for a picnic.", "…"),
        policy=sampled("I'm sorry, but I can't help with that request.", "Bring bread and cheese."),
    )
    result = diversity_result([prompt], word_limit=100)
    assert result is not None
    assert (result.overall["refusal_share"].reference, result.overall["refusal_share"].policy) == (0, 0.5)
    assert (result.overall["empty_share"].reference, result.overall["empty_share"].policy) == (0.5, 0)
