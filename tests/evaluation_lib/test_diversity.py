from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from worker.alignment.evaluation import texts
from worker.alignment.evaluation.diversity import PromptSamples, SampledText, diversity_result, prompt_metrics
from worker.alignment.events import DIVERSITY_KEYS

DATA = Path(os.environ.get("KTO_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def naive_lcs(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_words() -> None:
    assert texts.words("It's 3 o'clock, Ärzte!") == ["it", "s", "3", "o", "clock", "ärzte"]
    assert texts.words("東京 is big") == ["東", "京", "is", "big"]


def test_rouge_l_by_hand_and_against_the_table() -> None:
    assert texts.rouge_l(["a", "b", "c", "d"], ["a", "x", "c"]) == pytest.approx(4 / 7)
    assert texts.rouge_l([], []) == 1.0
    assert texts.rouge_l([], ["a"]) == 0.0
    rng = random.Random(0)
    for _ in range(100):
        a, b = ([rng.choice("abcdefg") for _ in range(rng.randrange(1, 90))] for _ in range(2))
        assert texts.rouge_l(a, b) == pytest.approx(2 * naive_lcs(a, b) / (len(a) + len(b)), abs=1e-12)
    samples = [["a", "b"], ["a", "b"], ["c", "d"]]
    assert texts.mean_pairwise_rouge_l(samples) == pytest.approx(1 / 3)


def test_distinct_k_joins_the_first_class_that_says_the_same() -> None:
    assert texts.distinct_k([["red"], ["red"], ["blue"], ["green"]]) == 3
    assert texts.distinct_k([["red", "or", "blue"], ["blue", "and", "red"]]) == 1  # 2 of 3 words
    long = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    assert texts.says_the_same(long, long[:5] + list("vwxyz"))  # F = 0.5
    assert not texts.says_the_same(long, long[:4] + list("uvwxyz"))  # F = 0.4
    assert texts.distinct_k([[], []]) == 1


def test_ead_by_hand() -> None:
    v = texts.EAD_VOCABULARY
    # unigrams: 2 distinct of 4; bigrams: (a b) (a b): 1 of 2; no longer n-grams
    expected = (2 / (v * (1 - ((v - 1) / v) ** 4)) + 1 / (v * (1 - ((v - 1) / v) ** 2))) / 2
    assert texts.ead([["a", "b"], ["a", "b"]]) == pytest.approx(expected)
    assert texts.ead([[], []]) == 0.0
    varied = [[f"w{i}" for i in range(50)], [f"x{i}" for i in range(50)]]
    assert texts.ead(varied) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("hi " * 30, True),
        ("I am happy to help. " * 6, True),
        ("a" * 200, True),
        ("!?" * 60, True),
        ("Take red, blue and green for the kitchen. I hope that helps.", False),
        (" ".join(f"word{i}" for i in range(200)), False),
        ("", False),
        ("yes", False),
    ],
)
def test_loops(text: str, loops: bool) -> None:
    assert texts.is_loop(text) is loops


def sampled(*items: str, truncated: bool = False) -> list[SampledText]:
    return [SampledText(text=item, truncated=truncated) for item in items]


def test_the_word_limit_applies_to_similarity_only() -> None:
    metrics = dict(zip(DIVERSITY_KEYS, prompt_metrics(sampled("a b c d", "a b y z"), 2), strict=True))
    assert metrics["similarity"] == 1.0
    assert metrics["mean_words"] == 4.0


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
    assert set(result.overall) == set(DIVERSITY_KEYS)
    assert result.categories[0].metrics["distinct_k"].change == -1
    assert diversity_result([], word_limit=100) is None


def test_the_overall_interval_resamples_categories() -> None:
    rng = random.Random(0)
    prompts = []
    for number in range(40):
        texts_ = [" ".join(rng.choices("abcdefghij", k=12)) for _ in range(4)]
        policy = [texts_[0]] * 3 + texts_[3:] if number % 2 else texts_  # half of the categories collapsed
        prompts.append(PromptSamples(category=f"c{number}", reference=sampled(*texts_), policy=sampled(*policy)))
    result = diversity_result(prompts, word_limit=100)
    assert result is not None
    change = result.overall["similarity"]
    assert change.low is not None
    assert change.high is not None
    assert 0 < change.low < change.change < change.high
    unchanged = result.overall["truncated_share"]
    assert (unchanged.low, unchanged.high) == (0.0, 0.0)


def test_distinct_k_follows_the_published_partitions() -> None:
    """NoveltyBench's classifier partition of 100 x 10 generations; ours needs no classifier."""
    path = DATA / "novelty_bench" / "gemini-1.5-pro_nb-curated_scores.jsonl"
    assert path.is_file(), f"{path} is missing; set KTO_SHARED_DATA"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    ours = np.array([texts.distinct_k([texts.words(text) for text in r["generations"]]) for r in records])
    theirs = np.array([len(set(r["partition"])) for r in records])
    assert len(records) == 100
    assert theirs.mean() == pytest.approx(1.83)
    assert np.corrcoef(ours, theirs)[0, 1] >= 0.5
    assert 1.8 <= ours.mean() <= 3.2
