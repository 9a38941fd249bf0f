"""Our measures beside the packages and the released files they are defined by, on real text."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score import rouge_scorer

from tests.conftest import SHARED_DATA
from worker.alignment.evaluation import texts
from worker.alignment.evaluation.bleu import self_bleu
from worker.alignment.evaluation.texts import spell, words


@pytest.fixture(scope="module")
def novelty() -> list[dict[str, Any]]:
    path = SHARED_DATA / "novelty_bench" / "gemini-1.5-pro_nb-curated_scores.jsonl"
    assert path.is_file(), f"{path} is missing; set KTO_SHARED_DATA"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def groups(novelty: list[dict[str, Any]]) -> list[list[str]]:
    """Four answers a prompt: of one model, and of several with what a judge made of them; some are empty or one word."""
    found = [record["generations"][:4] for record in novelty[::10]]
    rows = (SHARED_DATA / "kto_sample.jsonl").read_text(encoding="utf-8").splitlines()
    completions = [json.loads(line)["completion"] for line in rows[::200]]
    found += [completions[start : start + 4] for start in range(0, len(completions) - 3, 4)]
    return [*found, ["", "yes", "yes yes no", "no"], ["東京は大きい", "東京は大きい。", "big", "大きい 東京"]]


class OurWords:
    def tokenize(self, text: str) -> list[str]:
        return words(text)


def test_rouge_l_equals_rouge_score(groups: list[list[str]]) -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=OurWords())
    for whole in groups:
        group = [" ".join(text.split()[:80]) for text in whole]  # theirs is quadratic in Python
        matrix = texts.rouge_l_matrix(spell(map(words, group)))
        for i, j in combinations(range(len(group)), 2):
            assert matrix[i, j] == pytest.approx(scorer.score(group[i], group[j])["rougeL"].fmeasure, abs=1e-9)


def test_rouge_l_equals_rouge_score_with_its_own_words(groups: list[list[str]]) -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    for whole in groups[:10]:
        a, b = (" ".join(text.split()[:80]) for text in whole[:2])
        split = [scorer._tokenizer.tokenize(text) for text in (a, b)]
        assert texts.rouge_l(*split) == pytest.approx(scorer.score(a, b)["rougeL"].fmeasure, abs=1e-9)


def test_self_bleu_equals_nltk(groups: list[list[str]]) -> None:
    smoothing = SmoothingFunction().method1
    for group in groups:
        tokens = [words(text) for text in group]
        theirs = [
            sentence_bleu(tokens[:i] + tokens[i + 1 :], own, smoothing_function=smoothing)
            for i, own in enumerate(tokens)
        ]
        assert self_bleu(spell(tokens)) == pytest.approx(np.mean(theirs), abs=1e-9)


def test_utility_equals_the_released_file(novelty: list[dict[str, Any]]) -> None:
    assert len(novelty) == 100
    for record in novelty:
        found = texts.utility_k(record["partition"], record["generation_scores"])
        assert found == pytest.approx(record["utility"], abs=1e-12)


def test_distinct_k_follows_the_published_partitions(novelty: list[dict[str, Any]]) -> None:
    """NoveltyBench's classifier partition of 100 x 10 generations; ours needs no classifier."""
    ours = np.array([texts.distinct_k([words(text) for text in r["generations"]]) for r in novelty])
    theirs = np.array([len(set(r["partition"])) for r in novelty])
    assert theirs.mean() == pytest.approx(1.83)
    assert np.corrcoef(ours, theirs)[0, 1] >= 0.55
    assert 1.8 <= ours.mean() <= 3.2
