"""Word-level measures of one text or of the K samples of one prompt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from rapidfuzz.distance import LCSseq

# Scripts written without spaces: a character counts as a word there.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")

EAD_VOCABULARY = 50257
"""V of the expectation-adjusted distinct n-grams; fixed, so that figures of different models compare."""
SAME_ROUGE_1 = 0.458
"""NoveltyBench's threshold: above it two texts say the same."""

Words = list[str]


def words(text: str) -> Words:
    return _WORD.findall(text.lower())


def rouge_l(a: Words, b: Words) -> float:
    """ROUGE-L F1 = 2 LCS / (|a| + |b|); two empty texts are identical."""
    total = len(a) + len(b)
    return 2 * LCSseq.similarity(a, b) / total if total else 1.0


def mean_pairwise_rouge_l(samples: Sequence[Words]) -> float:
    """Mean over all pairs of the K samples (K >= 2); higher is less varied."""
    pairs = [rouge_l(a, b) for a, b in combinations(samples, 2)]
    return sum(pairs) / len(pairs)


def says_the_same(a: Words, b: Words) -> bool:
    """NoveltyBench's rule without its classifier: ROUGE-1 F1 > 0.458; up to 5 words, half of them in common."""
    common = sum((Counter(a) & Counter(b)).values())
    longest = max(len(a), len(b))
    if longest <= 5:
        return 2 * common >= longest
    return 2 * common / (len(a) + len(b)) > SAME_ROUGE_1


def distinct_k(samples: Sequence[Words]) -> int:
    """Number of different answers among K: each joins the first class whose first member says the same."""
    classes: list[Words] = []
    for sample in samples:
        if not any(says_the_same(first, sample) for first in classes):
            classes.append(sample)
    return len(classes)


def ead(samples: Sequence[Words]) -> float:
    """Expectation-adjusted distinct n-grams over the K samples, mean of n = 1..5 (Liu et al. 2022, as Kirk et al. use it).

    For each n: distinct n-grams / (V (1 - ((V - 1) / V) ** C)) with C n-grams in all; n-grams never cross texts, an n
    longer than every text is left out. 0 where there are no words.
    """
    values = []
    for n in range(1, 6):
        grams = [gram for sample in samples for gram in _ngrams(sample, n)]
        if grams:
            expected = EAD_VOCABULARY * (1 - ((EAD_VOCABULARY - 1) / EAD_VOCABULARY) ** len(grams))
            values.append(len(set(grams)) / expected)
    return sum(values) / len(values) if values else 0.0


def is_loop(text: str) -> bool:
    """True for a text that repeats itself: collapse that similarity metrics misread.

    One 4-gram makes up over a fifth of all 4-grams and comes at least three times; or the last 64 words hold fewer than
    a fifth different ones; or the last 64 characters are at most four different ones (one character for ever).
    """
    tokens = words(text)
    grams = Counter(_ngrams(tokens, 4))
    if grams:
        most = max(grams.values())
        if most >= 3 and most > 0.2 * grams.total():
            return True
    tail = tokens[-64:]
    if tail and len(set(tail)) < 0.2 * len(tail):
        return True
    packed = "".join(text.split())
    return len(packed) >= 64 and len(set(packed[-64:])) <= 4


def _ngrams(tokens: Words, n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
