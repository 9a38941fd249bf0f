"""Figures of the diversity metrics: they equal their oracles, and what they cost beside the packages.

    rows(quick) -> list[Row], joined by bench.evaluation; the data is read from KTO_SHARED_DATA.

The pool of the costs: real answers to one prompt, of NoveltyBench (100 prompts, 10 answers of one model each) and llmfao (13
prompts, up to 59 models each). A sample is one of the prompt's answers drawn at random, run on with further ones up to 90
words. Every package gets the same words. CPU seconds of one thread.

What made it cheap, in the order of what it took off: words as letters of strings and rapidfuzz's bit-parallel LCS over whole
matrices (200 times less than ``rouge_score``); all prompts' n-grams counted by sorting, only repeated ones kept for the next n
(self-BLEU alone took as long as all metrics together take now); loops looked for by counting only where the number of
different 4-grams allows one; a word pattern without look-ahead. Left at the end: cutting texts into words, a quarter; refusal
rules, a half.
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from bench.learning_data import shared_data
from bench.report import Row, not_run, ratios, row
from worker.alignment.evaluation import texts
from worker.alignment.evaluation.across import across_contrasts
from worker.alignment.evaluation.bleu import BLEU_LENGTHS, self_bleu, self_bleu_groups
from worker.alignment.evaluation.diversity import PromptSamples, SampledText, diversity_result
from worker.alignment.evaluation.grams import levels, pack
from worker.alignment.evaluation.measures import measure
from worker.alignment.evaluation.refusals import classify
from worker.alignment.evaluation.texts import spell, words

SAMPLES = 8
WORDS = 90
NUM_SETS = 500
CATEGORIES, PROMPTS = 661, 8
_COMPARED_SETS = 12

Group = list[str]


def rows(quick: bool) -> list[Row]:
    pool = Pool()
    compared = [pool.draw() for _ in range(4 if quick else _COMPARED_SETS)]
    return [
        *_agreement(compared),
        *_novelty(pool.novelty),
        *_cost(pool, compared, 1 if quick else 3),
        _full(pool, quick),
    ]


class Pool:
    def __init__(self) -> None:
        folder = shared_data()
        path = folder / "novelty_bench" / "gemini-1.5-pro_nb-curated_scores.jsonl"
        self.novelty: list[dict[str, Any]] = [
            json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
        ]
        answers = [[text.split() for text in record["generations"]] for record in self.novelty]
        by_prompt: defaultdict[int, dict[int, str]] = defaultdict(dict)
        for line in (folder / "llmfao" / "pairs-crowd.jsonl").read_text(encoding="utf-8").splitlines():
            pair = json.loads(line)
            for side in ("x", "y"):
                by_prompt[pair["prompt"]][pair[f"model_{side}"]] = pair[f"result_{side}"]
        answers += [[text.split() for text in outputs.values()] for outputs in by_prompt.values()]
        self._answers = [[tokens for tokens in found if tokens] for found in answers]
        self._rng = random.Random(0)

    def draw(self) -> Group:
        """K samples of one prompt."""
        answers = self._rng.choice(self._answers)
        group = []
        for _ in range(SAMPLES):
            tokens: list[str] = []
            while len(tokens) < WORDS:
                tokens += self._rng.choice(answers)
            group.append(" ".join(tokens[:WORDS]))
        return group

    def prompts(self, num_categories: int, per_category: int) -> Iterator[PromptSamples]:
        for number in range(num_categories * per_category):
            reference, policy = ([SampledText(text=text, truncated=False) for text in self.draw()] for _ in range(2))
            category = number // per_category
            yield PromptSamples(category=f"c{category}", reference=reference, policy=policy, domain=f"d{category % 20}")


def _agreement(compared: Sequence[Group]) -> list[Row]:
    similarity, bleu = [], []
    for group in compared:
        tokens = [words(text) for text in group]
        matrix = texts.rouge_l_matrix(spell(tokens))
        pairs = list(combinations(range(len(group)), 2))
        similarity += [abs(matrix[i, j] - found) for (i, j), found in zip(pairs, _rouge_score(tokens), strict=True)]
        bleu.append(abs(self_bleu(spell(tokens)) - _nltk(tokens)))
    return [
        row("ROUGE-L: distance to rouge_score", "F1", similarity, value=max(similarity), at_most=1e-9),
        row("self-BLEU-4: distance to nltk", "BLEU", bleu, value=max(bleu), at_most=1e-9),
    ]


def _novelty(records: Sequence[dict[str, Any]]) -> list[Row]:
    utility = [abs(texts.utility_k(r["partition"], r["generation_scores"]) - r["utility"]) for r in records]
    theirs = [float(len(set(r["partition"]))) for r in records]
    ours = [float(texts.distinct_k([words(text) for text in r["generations"]])) for r in records]
    pearson = float(np.corrcoef(ours, theirs)[0, 1])
    published = 1.83
    return [
        row("utility-k: distance to NoveltyBench's file", "score", utility, value=max(utility), at_most=1e-9),
        row(
            "mean partition of its labels: distance to 1.83",
            "classes",
            theirs,
            value=abs(float(np.mean(theirs)) - published),
            at_most=0.005,
        ),
        row(
            "distinct-k without a classifier: correlation with its labels",
            "Pearson",
            ours,
            value=pearson,
            at_least=0.55,
        ),
    ]


def _cost(pool: Pool, compared: Sequence[Group], rounds: int) -> list[Row]:
    prompts = list(pool.prompts(NUM_SETS // 2, 1))
    everything = [_seconds(lambda: _all_metrics(prompts)) for _ in range(rounds)]
    tokens = [[words(text) for text in group] for group in compared]
    many = [[words(sample.text) for sample in arm] for prompt in prompts for arm in (prompt.reference, prompt.policy)]
    scale = NUM_SETS / len(compared)
    rouge = [_seconds(lambda: [_rouge_score(group) for group in tokens]) * scale for _ in range(rounds)]
    nltk = [_seconds(lambda: [_nltk(group) for group in tokens]) * scale for _ in range(rounds)]
    ours = [_seconds(lambda: _the_same_two(many)) for _ in range(rounds)]
    theirs = [a + b for a, b in zip(rouge, nltk, strict=True)]
    told = f"{NUM_SETS} prompts x {SAMPLES} samples x {WORDS} words"
    return [
        row(f"all text metrics, {told}", "CPU s", everything, at_most=2.5),
        row(f"rouge_score, all pairs, {told}, extrapolated", "CPU s", rouge),
        row(f"nltk self-BLEU-4, {told}, extrapolated", "CPU s", nltk),
        row("rouge_score + nltk for two metrics / ours for all", "x", ratios(theirs, everything), at_least=10),
        row("rouge_score + nltk / ours for the same two", "x", ratios(theirs, ours), at_least=50),
        not_run("diversity + vendi-score + nltk / ours", "x", at_least=50),
    ]


def _the_same_two(groups: Sequence[Sequence[list[str]]]) -> None:
    """Similarity matrices and self-BLEU, in parts as ``measures`` takes them."""
    for start in range(0, len(groups), 96):
        part = groups[start : start + 96]
        spelled = spell(tokens for group in part for tokens in group)
        sets = [spelled[first : first + SAMPLES] for first in range(0, len(spelled), SAMPLES)]
        for texts_K in sets:
            texts.mean_pairwise(texts.rouge_l_matrix(texts_K))
        packed = pack(sets)
        self_bleu_groups(list(levels(packed, BLEU_LENGTHS)), packed.length_T, SAMPLES)


def _all_metrics(prompts: Sequence[PromptSamples]) -> None:
    found = measure(prompts, 100, refuses=lambda text: classify(text) != "none")
    across_contrasts(*found.first, 100, np.array([prompt.category for prompt in prompts]))


def _full(pool: Pool, quick: bool) -> Row:
    """Metrics of both arms, similarity matrices, permutation tests of categories and domains, intervals."""
    shrink = 20 if quick else 1
    prompts = list(pool.prompts(CATEGORIES // shrink, PROMPTS))
    spent = _seconds(lambda: diversity_result(prompts, word_limit=100)) * shrink
    name = f"FULL: {CATEGORIES} categories x {PROMPTS} prompts x {SAMPLES} samples x 2 arms, tests included"
    return row(name + (", extrapolated" if quick else ""), "CPU s", [spent], at_most=40)


def _rouge_score(tokens: Sequence[list[str]]) -> list[float]:
    from rouge_score.rouge_scorer import RougeScorer

    class Given:
        def tokenize(self, text: str) -> list[str]:
            return text.split()

    scorer = RougeScorer(["rougeL"], tokenizer=Given())
    joined = [" ".join(found) for found in tokens]
    return [scorer.score(a, b)["rougeL"].fmeasure for a, b in combinations(joined, 2)]


def _nltk(tokens: Sequence[list[str]]) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing = SmoothingFunction().method1
    scores = [
        sentence_bleu([*tokens[:i], *tokens[i + 1 :]], own, smoothing_function=smoothing)
        for i, own in enumerate(tokens)
    ]
    return float(sum(scores)) / len(scores)


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
