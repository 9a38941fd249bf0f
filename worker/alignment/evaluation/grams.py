"""n-grams of many prompts' samples, counted at once.

A group is the K samples of one prompt and arm; n-grams are counted within a group and never cross texts. Exact, without a
table of n-grams: an n-gram that comes once in its group cannot begin a longer one that comes twice, so only what repeats is
looked at again, and that is little from n = 3 on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

EAD_VOCABULARY = 50257
"""V of the expectation-adjusted distinct n-grams; fixed, so that figures of different models compare."""
EAD_LENGTHS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The texts of G groups of K, one after the other."""

    num_samples: int
    """K."""
    word_N: Ints
    """Number of each word; equal numbers are equal words within a group."""
    text_N: Ints
    """Which text a word is of, 0 … G K - 1."""
    length_T: Ints
    """Words of each text, [G K]."""

    @property
    def num_groups(self) -> int:
        return len(self.length_T) // self.num_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The n-grams of one n."""

    n: int
    total_T: Ints
    """n-grams of each text."""
    distinct_G: Ints
    """Different ones of each group."""
    gram_M: Ints
    """Those that come more than once in their group, in the order of the texts: equal numbers are equal n-grams."""
    text_M: Ints
    """The text each is of."""


def pack(groups: Sequence[Sequence[str]]) -> Packed:
    """Groups of K texts as ``texts.spell`` writes them; all of the same K."""
    flat = [text for group in groups for text in group]
    length_T = np.array([len(text) for text in flat], dtype=np.int64)
    letters = "".join(flat).encode("utf-32-le", "surrogatepass")
    return Packed(
        num_samples=len(groups[0]),
        word_N=np.frombuffer(letters, dtype="<u4").astype(np.int64),
        text_N=np.repeat(np.arange(len(flat)), length_T),
        length_T=length_T,
    )


def levels(packed: Packed, longest: int) -> Iterator[Level]:
    """One level for each n = 1 … ``longest``."""
    length_T = packed.length_T
    group_N = packed.text_N // packed.num_samples
    left_N = np.repeat(length_T.cumsum(), length_T) - np.arange(len(packed.word_N))  # words from here to the text's end
    key_M = group_N * (packed.word_N.max(initial=0) + 1) + packed.word_N
    start_M = np.arange(len(packed.word_N))
    for n in range(1, longest + 1):
        total_T = np.maximum(length_T - n + 1, 0)
        total_G = total_T.reshape(-1, packed.num_samples).sum(1)
        gram_M, repeated_M = _number(key_M)
        gram_M, start_M = gram_M[repeated_M], start_M[repeated_M]
        _, first = np.unique(gram_M, return_index=True)
        kinds_G = np.bincount(group_N[start_M[first]], minlength=packed.num_groups)
        repeats_G = np.bincount(group_N[start_M], minlength=packed.num_groups)
        yield Level(
            n=n,
            total_T=total_T,
            distinct_G=total_G - repeats_G + kinds_G,
            gram_M=gram_M,
            text_M=packed.text_N[start_M],
        )
        # An (n + 1)-gram is known by the n-gram it begins with and the one that starts a word later.
        follows_M = np.zeros(len(start_M), dtype=bool)
        follows_M[:-1] = (start_M[1:] == start_M[:-1] + 1) & (left_N[start_M[:-1]] > n)
        begin = np.flatnonzero(follows_M)
        key_M = gram_M[begin] * (gram_M.max(initial=0) + 1) + gram_M[begin + 1]
        start_M = start_M[begin]


def ead(found: Sequence[Level], num_samples: int) -> Floats:
    """Expectation-adjusted distinct n-grams of each group, [G]: mean of n = 1 … 5 (Liu et al. 2022, as Kirk et al. use it).

    For each n: distinct n-grams / (V (1 - ((V - 1) / V) ** C)) with C n-grams in all; an n longer than every text is left
    out. 0 where there are no words.
    """
    total_LG = np.stack([level.total_T.reshape(-1, num_samples).sum(1) for level in found[:EAD_LENGTHS]])
    distinct_LG = np.stack([level.distinct_G for level in found[:EAD_LENGTHS]])
    expected_LG = EAD_VOCABULARY * -np.expm1(total_LG * np.log1p(-1 / EAD_VOCABULARY))
    share_LG = np.where(total_LG > 0, distinct_LG / np.where(total_LG > 0, expected_LG, 1), 0)
    result: Floats = share_LG.sum(0) / np.maximum((total_LG > 0).sum(0), 1)
    return result


def distinct_n(level: Level, num_samples: int) -> Floats:
    """Different n-grams / all n-grams of each group, [G]; 0 where there are none. Falls with K and length (Li et al. 2016)."""
    total_G = level.total_T.reshape(-1, num_samples).sum(1)
    result: Floats = level.distinct_G / np.maximum(total_G, 1)
    return result


def _number(key_M: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Equal keys get equal numbers, 0 …; and which keys come more than once."""
    order = np.argsort(key_M)
    sorted_M = key_M[order]
    new_M = np.ones(len(key_M), dtype=bool)
    new_M[1:] = sorted_M[1:] != sorted_M[:-1]
    last_M = np.ones(len(key_M), dtype=bool)
    last_M[:-1] = new_M[1:]
    number_M, repeated_M = np.empty_like(key_M), np.empty(len(key_M), dtype=bool)
    number_M[order] = new_M.cumsum() - 1
    repeated_M[order] = ~(new_M & last_M)
    return number_M, repeated_M
