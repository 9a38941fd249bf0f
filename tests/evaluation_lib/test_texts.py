from __future__ import annotations

import random

import pytest

from worker.alignment.evaluation import texts
from worker.alignment.evaluation.bleu import self_bleu
from worker.alignment.evaluation.grams import EAD_VOCABULARY, distinct_n, ead, levels, pack
from worker.alignment.evaluation.texts import spell


def naive_lcs(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def random_texts(rng: random.Random, num: int, longest: int, kinds: int) -> list[list[str]]:
    return [[f"w{rng.randrange(kinds)}" for _ in range(rng.randrange(longest + 1))] for _ in range(num)]


def ead_of(*samples: list[str]) -> float:
    return float(ead(list(levels(pack([spell(samples)]), 5)), len(samples))[0])


def test_words() -> None:
    assert texts.words("It's 3 o'clock, Ärzte!") == ["it", "s", "3", "o", "clock", "ärzte"]
    assert texts.words("東京 is big") == ["東", "京", "is", "big"]
    assert texts.words("abc東京def") == ["abc", "東", "京", "def"]
    assert texts.words("한국어 문장 …!") == ["한국어", "문장"]
    assert texts.words(" \n…") == []


def test_rouge_l_by_hand_and_against_the_table() -> None:
    assert texts.rouge_l(["a", "b", "c", "d"], ["a", "x", "c"]) == pytest.approx(4 / 7)
    assert texts.rouge_l([], []) == 1.0
    assert texts.rouge_l([], ["a"]) == 0.0
    rng = random.Random(0)
    for _ in range(20):
        samples = random_texts(rng, 6, 150, 7)
        matrix = texts.rouge_l_matrix(spell(samples))
        for i, a in enumerate(samples):
            for j, b in enumerate(samples):
                total = len(a) + len(b)
                wanted = 2 * naive_lcs(a, b) / total if total else 1.0
                assert matrix[i, j] == texts.rouge_l(a, b) == pytest.approx(wanted, abs=1e-12)
    assert texts.mean_pairwise_rouge_l([["a", "b"], ["a", "b"], ["c", "d"]]) == pytest.approx(1 / 3)


def test_letters_go_past_the_surrogates() -> None:
    many = [f"w{i}" for i in range(60_000)]
    assert texts.rouge_l_matrix(spell([many, many[55_000:57_000]]))[0, 1] == pytest.approx(4000 / 62_000)
    assert pack([spell([many, many[::-1]])]).word_N[0] == pack([spell([many, many[::-1]])]).word_N[-1]


def test_distinct_k_joins_the_first_class_that_says_the_same() -> None:
    assert texts.distinct_k([["red"], ["red"], ["blue"], ["green"]]) == 3
    assert texts.distinct_k([["red", "or", "blue"], ["blue", "and", "red"]]) == 1  # 2 of 3 words
    long = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    assert texts.distinct_k([long, long[:5] + list("vwxyz")]) == 1  # F = 0.5
    assert texts.distinct_k([long, long[:4] + list("uvwxyz")]) == 2  # F = 0.4
    assert texts.distinct_k([["x"] * 6, ["x"] * 2 + list("abcd")]) == 2  # a word counts as often as both have it
    assert texts.distinct_k([[], []]) == 1
    assert texts.distinct_k([["a"], []]) == 2
    a, b, c = list("abcdefghij"), list("abcdeVWXYZ"), list("VWXYZ12345")
    assert texts.partition(texts.same_matrix(spell([a, b, c]))) == [0, 0, 1]  # c is like b, but b leads no class


def test_utility_by_hand() -> None:
    total = 1 + 0.8 + 0.64
    assert texts.utility_k([0, 0, 1], [10, 8, 5]) == pytest.approx((10 + 0.64 * 5) / total)
    with pytest.raises(ValueError, match="2 classes and 1 scores"):
        texts.utility_k([0, 1], [1.0])


def test_ead_by_hand() -> None:
    v = EAD_VOCABULARY
    # unigrams: 2 distinct of 4; bigrams: (a b) (a b): 1 of 2; no longer n-grams
    expected = (2 / (v * (1 - ((v - 1) / v) ** 4)) + 1 / (v * (1 - ((v - 1) / v) ** 2))) / 2
    assert ead_of(["a", "b"], ["a", "b"]) == pytest.approx(expected)
    assert ead_of([], []) == 0.0
    varied = [[f"w{i}" for i in range(50)], [f"x{i}" for i in range(50)]]
    assert ead_of(*varied) == pytest.approx(1.0, abs=0.01)


def test_ngram_counts_equal_those_of_sets() -> None:
    rng = random.Random(1)
    groups = [random_texts(rng, 3, 40, kinds) for kinds in (1, 2, 5, 30) for _ in range(8)]
    packed = pack([spell(group) for group in groups])
    for level in levels(packed, 5):
        grams = [[tuple(t[i : i + level.n]) for t in g for i in range(len(t) - level.n + 1)] for g in groups]
        assert level.distinct_G.tolist() == [len(set(g)) for g in grams]
        assert level.total_T.reshape(-1, 3).sum(1).tolist() == [len(g) for g in grams]
        assert len(level.gram_M) == sum(sum(g.count(x) > 1 for x in g) for g in grams)
        wanted = [len(set(g)) / len(g) if g else 0.0 for g in grams]
        assert distinct_n(level, 3).tolist() == pytest.approx(wanted)


def test_self_bleu_of_the_extremes() -> None:
    same = ["one", "two", "three", "four", "five"]
    assert self_bleu(spell([same, same, same])) == pytest.approx(1.0)
    assert self_bleu(spell([same, list("abcde")])) == 0.0
    assert self_bleu(spell([[], []])) == 0.0
    assert self_bleu(spell([[], same])) == 0.0


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("hi " * 30, True),
        ("I am happy to help. " * 6, True),
        ("a" * 200, True),
        ("!?" * 60, True),
        ("! ?\n\t" * 60, True),
        ("東京" * 40, True),
        ("Take red, blue and green for the kitchen. I hope that helps.", False),
        (" ".join(f"word{i}" for i in range(200)), False),
        (" ".join(f"word{i}" for i in range(200)) + " so" * 64, True),
        ("", False),
        ("yes", False),
    ],
)
def test_loops(text: str, loops: bool) -> None:
    assert texts.is_loop(text) is loops
