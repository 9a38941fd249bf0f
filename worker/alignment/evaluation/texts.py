"""Word-level measures of one text or of the K samples of one prompt: the definitions.

What is counted over many prompts at once (n-grams, self-BLEU) stands in ``grams`` and ``bleu``.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

Words = list[str]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Scripts written without spaces: a character counts as a word there.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

SAME_ROUGE_1 = 0.458
"""NoveltyBench's threshold: above it two texts say the same."""
SHORT_WORDS = 5
"""Up to so many words two texts say the same when half of the longer one's words are common (NoveltyBench's rule)."""
PATIENCE = 0.8
"""NoveltyBench's p: the chance that a user goes on to the next answer."""
LOOP_SHARE = 0.2
_LOOP_TAIL = 64


def words(text: str) -> Words:
    return _WORD.findall(text.lower())


def rouge_l(a: Words, b: Words) -> float:
    """ROUGE-L F1 = 2 LCS / (|a| + |b|); two empty texts are identical."""
    total = len(a) + len(b)
    return 2 * LCSseq.similarity(a, b) / total if total else 1.0


def spell(samples: Iterable[Words]) -> list[str]:
    """Each text as a string with one letter per word; the same word is the same letter in all of them.

    String algorithms (LCS, multiset overlap) then run on words at the speed of characters. Letters are numbers, not for
    printing: surrogates may be among them.
    """
    number: defaultdict[str, int] = defaultdict()
    number.default_factory = number.__len__
    return ["".join(map(chr, map(number.__getitem__, sample))) for sample in samples]


def rouge_l_matrix(spelled_K: Sequence[str]) -> Floats:
    """ROUGE-L F1 between all texts, [K, K]: symmetric, 1 on the diagonal."""
    return _f1(_lcs(spelled_K), spelled_K)


def mean_pairwise(matrix_KK: Floats) -> float:
    """Mean over all pairs of different samples (K >= 2)."""
    num = len(matrix_KK)
    return float((matrix_KK.sum() - matrix_KK.trace()) / (num * (num - 1)))


def mean_pairwise_rouge_l(samples: Sequence[Words]) -> float:
    """Mean over all pairs of the K samples (K >= 2); higher is less varied."""
    return mean_pairwise(rouge_l_matrix(spell(samples)))


def same_matrix(spelled_K: Sequence[str]) -> Bools:
    """Which texts say the same by NoveltyBench's rule without its classifier, [K, K].

    ROUGE-1 F1 > 0.458; where both have at most 5 words, half of the longer one's in common.
    """
    sorted_K = ["".join(sorted(text)) for text in spelled_K]
    common_KK = _lcs(sorted_K)  # of sorted texts, the LCS is the number of common words
    length_K = np.array([len(text) for text in spelled_K])
    longest_KK = np.maximum(length_K[:, None], length_K)
    return np.where(longest_KK <= SHORT_WORDS, 2 * common_KK >= longest_KK, _f1(common_KK, spelled_K) > SAME_ROUGE_1)


def partition(same_KK: Bools) -> list[int]:
    """The class of each sample, numbered from 0: it joins the first class whose first member says the same."""
    first: list[int] = []
    classes = []
    for sample, same_K in enumerate(same_KK.tolist()):
        found = next((number for number, member in enumerate(first) if same_K[member]), len(first))
        if found == len(first):
            first.append(sample)
        classes.append(found)
    return classes


def distinct_k(samples: Sequence[Words]) -> int:
    """Number of different answers among K (NoveltyBench's distinct_k with the rule of ``same_matrix``)."""
    return len(set(partition(same_matrix(spell(samples)))))


def utility_k(classes: Sequence[int], scores: Sequence[float], patience: float = PATIENCE) -> float:
    """NoveltyBench's utility: sum of p^i s_i over the first sample of each class, divided by sum p^i (i = 0..K-1).

    ``scores`` rate each sample; those of repeated classes count nothing. Raises ValueError on unequal lengths and on none.
    """
    if not classes or len(classes) != len(scores):
        raise ValueError(f"{len(classes)} classes and {len(scores)} scores: give one of each for every sample")
    weights = [patience**index for index in range(len(classes))]
    seen: set[int] = set()
    total = 0.0
    for weight, number, score in zip(weights, classes, scores, strict=True):
        if number not in seen:
            seen.add(number)
            total += weight * score
    return total / sum(weights)


def is_loop(text: str) -> bool:
    """True for a text that repeats itself: collapse that similarity metrics misread.

    One 4-gram makes up over a fifth of all 4-grams and comes at least three times; or the last 64 words hold fewer than
    a fifth different ones; or the last 64 characters are at most four different ones (one character for ever).
    """
    return loops(text, words(text))


def loops(text: str, tokens: Words) -> bool:
    """``is_loop`` of a text whose words are known."""
    total = len(tokens) - 3
    if total > 0:
        grams = list(zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False))
        most = total - len(set(grams)) + 1  # no gram can come more often
        if most >= 3 and most > LOOP_SHARE * total:
            most = max(Counter(grams).values())
            if most >= 3 and most > LOOP_SHARE * total:
                return True
    tail = tokens[-_LOOP_TAIL:]
    if tail and len(set(tail)) < LOOP_SHARE * len(tail):
        return True
    if len(set("".join(text[-_LOOP_TAIL:].split()))) > 4:  # so are the last 64 without the spaces
        return False
    packed = "".join(text.split())
    return len(packed) >= _LOOP_TAIL and len(set(packed[-_LOOP_TAIL:])) <= 4


def _lcs(spelled_K: Sequence[str]) -> NDArray[np.int32]:
    found: NDArray[np.int32] = cdist(spelled_K, spelled_K, scorer=LCSseq.similarity, dtype=np.int32)
    return found


def _f1(common_KK: NDArray[np.int32], spelled_K: Sequence[str]) -> Floats:
    """2 common / (|a| + |b|); 1 for two empty texts."""
    length_K = np.array([len(text) for text in spelled_K])
    total_KK = length_K[:, None] + length_K
    return np.where(total_KK > 0, 2 * common_KK / np.maximum(total_KK, 1), 1.0)
