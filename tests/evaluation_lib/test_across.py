from __future__ import annotations

import math
import zlib

import numpy as np
import pytest

from worker.alignment.evaluation.across import (
    across_contrasts,
    compression_ratio,
    self_repetition,
    top_opening,
)
from worker.alignment.events import ACROSS_KEYS

VARIED = [[f"w{number}x{i}" for i in range(20)] for number in range(60)]
TEMPLATE = [["i", "am", "happy", "to", "help", "with", *text[:14]] for text in VARIED]
NAMES = np.array([f"c{number % 40}" for number in range(60)])


def test_self_repetition_by_hand() -> None:
    a, b = ["a", "b", "c", "d", "e"], ["x", "a", "b", "c", "d"]
    # a holds abcd, bcde; b holds xabc, abcd; abcd is in one other text, and repeating it oneself counts nothing
    assert self_repetition([a, b, ["q"], []]).tolist() == pytest.approx([math.log(2), math.log(2), 0, 0])
    assert self_repetition([a * 3, list("mnop")]).tolist() == [0, 0]
    assert self_repetition([a, a, a]).tolist() == pytest.approx([math.log(5)] * 3)  # two 4-grams, two others each


def test_opening_and_compression() -> None:
    assert top_opening([list("abcde"), list("abcdx"), list("ab"), []]).tolist() == [True, True, False, False]
    assert not top_opening([[], []]).any()
    data = b"a b\nc"
    assert compression_ratio([["a", "b"], ["c"]]) == len(data) / len(zlib.compress(data))
    assert compression_ratio([[], []]) is None


def test_a_template_shows_across_prompts() -> None:
    found = across_contrasts(VARIED, TEMPLATE, 100, NAMES)
    assert set(found) == set(ACROSS_KEYS)
    assert found["compression_ratio"].change > 0.3
    opening = found["opening_share"]
    assert (opening.reference, opening.policy) == pytest.approx((1 / 60, 1.0))
    assert opening.low is not None
    assert opening.low > 0.9
    assert found["self_repetition"].policy == pytest.approx(math.log(1 + 3 * 59))
    assert (found["median_words"].change, found["median_words"].low) == (0, None)  # no spread, no interval


def test_lengths_are_those_of_the_whole_texts_and_the_rest_is_cut() -> None:
    longer = [text + ["more"] * number for number, text in enumerate(VARIED)]
    found = across_contrasts(VARIED, longer, 20, NAMES)
    assert found["compression_ratio"].change == 0
    assert found["self_repetition"].change == 0
    assert (found["median_words"].reference, found["median_words"].policy) == (20, 49)
    assert found["p95_words"].policy == 20 + 56
    low, high = found["median_words"].low, found["median_words"].high
    assert low is not None
    assert high is not None
    assert low < 29 < high


def test_empty_texts() -> None:
    found = across_contrasts(VARIED[:2], [[], []], 20, NAMES[:2])
    assert "compression_ratio" not in found
    assert (found["opening_share"].policy, found["p95_words"].policy) == (0, 0)
