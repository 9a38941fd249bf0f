"""Self-BLEU-4: how well each sample is predicted by the others of its prompt (Zhu et al. 2018); up = less varied.

BLEU as nltk's ``sentence_bleu`` with smoothing method 1 (Chen and Cherry 2014): uniform weights over n = 1 … 4, a precision
without a match counts as 0.1 / total, brevity against the reference closest in length, 0 without a common word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.alignment.evaluation.grams import Level, levels, pack

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLEU_LENGTHS = 4
_EPSILON = 0.1


def self_bleu(spelled_K: Sequence[str]) -> float:
    """Of one prompt's K >= 2 samples, spelled by ``texts.spell``."""
    packed = pack([spelled_K])
    return float(self_bleu_groups(list(levels(packed, BLEU_LENGTHS)), packed.length_T, len(spelled_K))[0])


def self_bleu_groups(found: Sequence[Level], length_T: Ints, num_samples: int) -> Floats:
    """Of every group, [G]: mean over its samples of BLEU-4 against its other samples. ``found`` holds n = 1 … 4.

    The clipped counts of all samples come from one sorting: a text's count of an n-gram is clipped by the largest count
    among the others, which changes nothing but the count of the one text that has it most often.
    """
    num_texts = len(length_T)
    match_LT = np.stack([_clipped(level, num_texts) for level in found[:BLEU_LENGTHS]])
    total_LT = np.stack([np.maximum(level.total_T, 1) for level in found[:BLEU_LENGTHS]])
    precision_LT = np.where(match_LT > 0, match_LT, _EPSILON) / total_LT
    bleu_T = np.exp(np.log(precision_LT).mean(0)) * _brevity(length_T.reshape(-1, num_samples)).reshape(-1)
    result: Floats = np.where(match_LT[0] > 0, bleu_T, 0).reshape(-1, num_samples).mean(1)
    return result


def _clipped(level: Level, num_texts: int) -> Ints:
    """n-grams of each text that another text of the group has too, clipped, [T]."""
    pair_M = np.sort(level.gram_M * num_texts + level.text_M)
    first = np.flatnonzero(np.diff(pair_M, prepend=-1) != 0)
    count_R = np.diff(first, append=len(pair_M))
    gram_R, text_R = np.divmod(pair_M[first], num_texts)
    width = int(count_R.max(initial=0)) + 1
    rank = np.argsort(gram_R * width + count_R)  # within an n-gram, the text that has it most often comes last
    gram_R, text_R, count_R = gram_R[rank], text_R[rank], count_R[rank]
    last_R = np.ones(len(gram_R), dtype=bool)
    last_R[:-1] = gram_R[1:] != gram_R[:-1]
    before_R = np.zeros_like(count_R)
    before_R[1:] = np.where(gram_R[1:] == gram_R[:-1], count_R[:-1], 0)
    clipped_R = np.where(last_R, before_R, count_R)
    return np.bincount(text_R, weights=clipped_R, minlength=num_texts).astype(np.int64)


def _brevity(length_GK: Ints) -> Floats:
    """exp(1 - reference / own length) below the reference's length, else 1; of two as close, the shorter is it."""
    own_GK1, other_G1K = length_GK[:, :, None], length_GK[:, None, :]
    far_GKK = 2 * np.abs(own_GK1 - other_G1K) + (other_G1K > own_GK1)
    diagonal = np.arange(length_GK.shape[1])
    far_GKK[:, diagonal, diagonal] = np.iinfo(np.int64).max
    closest_GK = np.take_along_axis(length_GK, far_GKK.argmin(2), 1)
    own_GK = np.maximum(length_GK, 1)
    result: Floats = np.where(length_GK >= closest_GK, 1.0, np.exp(1 - closest_GK / own_GK)) * (length_GK > 0)
    return result
