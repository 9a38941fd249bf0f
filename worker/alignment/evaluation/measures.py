"""The figures of every prompt's samples in both arms, and their similarity matrices.

Prompts are measured in parts, some dozens together: enough to spread the cost of a numpy call, few enough to stay in the
processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist

from worker.alignment.evaluation.bleu import self_bleu_groups
from worker.alignment.evaluation.blocks import PromptBlock
from worker.alignment.evaluation.grams import EAD_LENGTHS, distinct_n, ead, levels, pack
from worker.alignment.evaluation.texts import (
    Bools,
    Floats,
    Words,
    loops,
    mean_pairwise,
    partition,
    rouge_l_matrix,
    same_matrix,
    spell,
    words,
)

T = TypeVar("T")
Passes = Callable[[Sequence[str]], Bools]
"""The quality rule: which of the texts pass."""

_PART = 48
_PARTNERS = 8
"""Other prompts that each prompt's reference samples are compared with for the floor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledText:
    text: str
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSamples:
    """K samples of each arm for one prompt."""

    category: str
    reference: Sequence[SampledText]
    policy: Sequence[SampledText]
    domain: str = ""
    open_ended: bool = True

    @property
    def both(self) -> list[SampledText]:
        """The reference's, then the policy's: the order of every array over samples."""
        return [*self.reference, *self.policy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Arrays are in the order of the prompts; NaN: could not be had for this prompt."""

    values: dict[str, Floats]
    """[P, 2] reference, policy; of DIVERSITY_KEYS all but ``similarity_normalised`` and ``semantic``."""
    floor_P: Floats
    """Similarity of the prompt's reference samples to those of other prompts."""
    blocks: list[PromptBlock]
    first: tuple[list[Words], list[Words]]
    """The first sample of each prompt, whole: the reference's, the policy's."""


def similarity_block(prompt: PromptSamples, word_limit: int, passes: Passes | None = None) -> PromptBlock:
    """Similarities of one prompt's samples in both arms, each cut to ``word_limit`` words."""
    texts = [sample.text for sample in prompt.both]
    cut = spell(words(text)[:word_limit] for text in texts)
    return _block(prompt, cut, np.ones(len(texts), dtype=bool) if passes is None else passes(texts))


def measure(
    prompts: Sequence[PromptSamples],
    word_limit: int,
    *,
    passes: Passes | None = None,
    refuses: Callable[[str], bool] | None = None,
    seed: int = 0,
) -> Measured:
    """Every prompt's figures. Raises ValueError unless all prompts have the same K >= 2 in both arms.

    ``passes`` is asked once, with all texts. Without ``refuses`` there is no ``refusal_share``.
    """
    counts = {len(arm) for prompt in prompts for arm in (prompt.reference, prompt.policy)}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(f"Samples per prompt and arm: {sorted(counts)}. Give the same number, at least 2, everywhere.")
    num_samples = counts.pop()
    texts = [sample.text for prompt in prompts for sample in prompt.both]
    passes_S = np.ones(len(texts), dtype=bool) if passes is None else np.asarray(passes(texts), dtype=bool)
    passes_PN = passes_S.reshape(-1, 2 * num_samples)
    # A part mixes categories: the floor compares a prompt with others of its part.
    order = np.random.default_rng(seed).permutation(len(prompts))
    parts = [order[start : start + _PART] for start in range(0, len(order), _PART)]
    if len(parts) > 1 and len(parts[-1]) < _PARTNERS:  # too few to compare with
        parts[-2:] = [np.concatenate(parts[-2:])]
    found = [_measure_part([prompts[i] for i in part], passes_PN[part], word_limit, refuses) for part in parts]
    back = np.argsort(np.concatenate(parts))
    return Measured(
        values={key: np.concatenate([part.values[key] for part in found])[back] for key in found[0].values},
        floor_P=np.concatenate([part.floor_P for part in found])[back],
        blocks=_reorder([part.blocks for part in found], back),
        first=(_reorder([part.first[0] for part in found], back), _reorder([part.first[1] for part in found], back)),
    )


def _reorder(parts: list[list[T]], back: NDArray[np.int64]) -> list[T]:
    flat = [item for part in parts for item in part]
    return [flat[index] for index in back]


def _measure_part(
    prompts: Sequence[PromptSamples], passes_PN: Bools, word_limit: int, refuses: Callable[[str], bool] | None
) -> Measured:
    both = 2 * len(prompts[0].policy)
    samples = [sample for prompt in prompts for sample in prompt.both]
    whole = [words(sample.text) for sample in samples]
    spelled = spell(tokens[:word_limit] for tokens in whole)
    values = _counted(spelled, both // 2)
    values |= {
        key: flags_S.reshape(-1, 2, both // 2).mean(2) for key, flags_S in _flags(samples, whole, refuses).items()
    }
    cut = [spelled[start : start + both] for start in range(0, len(spelled), both)]
    blocks = [_block(prompt, texts, ok_N) for prompt, texts, ok_N in zip(prompts, cut, passes_PN, strict=True)]
    values |= _alike(blocks, cut)
    return Measured(
        values=values,
        floor_P=_floor(blocks, cut),
        blocks=blocks,
        first=(whole[::both], whole[both // 2 :: both]),
    )


def _counted(spelled: Sequence[str], num_samples: int) -> dict[str, Floats]:
    """What rests on n-grams, each [P, 2]."""
    packed = pack([spelled[start : start + num_samples] for start in range(0, len(spelled), num_samples)])
    found = list(levels(packed, EAD_LENGTHS))
    by_group = {
        "ead": ead(found, num_samples),
        "distinct_2": distinct_n(found[1], num_samples),
        "self_bleu": self_bleu_groups(found, packed.length_T, num_samples),
    }
    return {key: value_G.reshape(-1, 2) for key, value_G in by_group.items()}


def _flags(
    samples: Sequence[SampledText], whole: Sequence[Words], refuses: Callable[[str], bool] | None
) -> dict[str, Floats]:
    """A number per sample, [S]; lengths and loops are taken from the uncut texts."""
    found = {
        "mean_words": [len(tokens) for tokens in whole],
        "loop_rate": [loops(sample.text, tokens) for sample, tokens in zip(samples, whole, strict=True)],
        "truncated_share": [sample.truncated for sample in samples],
        "empty_share": [not tokens for tokens in whole],
    }
    if refuses is not None:
        found["refusal_share"] = [refuses(sample.text) for sample in samples]
    return {key: np.array(value, dtype=np.float64) for key, value in found.items()}


def _block(prompt: PromptSamples, cut: Sequence[str], passes_N: Bools) -> PromptBlock:
    return PromptBlock(
        category=prompt.category,
        domain=prompt.domain,
        open_ended=prompt.open_ended,
        similarity_NN=rouge_l_matrix(cut),
        num_reference=len(prompt.reference),
        passes_N=passes_N,
    )


def _alike(blocks: Sequence[PromptBlock], cut: Sequence[Sequence[str]]) -> dict[str, Floats]:
    """Similarity and distinct answers, all and gated, each [P, 2]."""
    keys = ("similarity", "similarity_gated", "distinct_k", "distinct_k_gated")
    values = np.full((len(keys), len(blocks), 2), np.nan)
    for index, (block, texts) in enumerate(zip(blocks, cut, strict=True)):
        num = block.num_reference
        arms = (np.arange(num), np.arange(num, len(texts)))
        passing = [arm[block.passes_N[arm]] for arm in arms]
        fewer = min(map(len, passing))
        for side, arm in enumerate(arms):
            within_KK = block.similarity_NN[np.ix_(arm, arm)]
            same_KK = same_matrix(texts[:num] if side == 0 else texts[num:])
            values[0, index, side] = mean_pairwise(within_KK)
            values[2, index, side] = len(set(partition(same_KK)))
            if fewer < 2:
                continue
            kept = passing[side] - arm[0]
            values[1, index, side] = mean_pairwise(within_KK[np.ix_(kept, kept)])
            # As many in both arms: more samples hold more different answers.
            values[3, index, side] = len(set(partition(same_KK[np.ix_(kept[:fewer], kept[:fewer])])))
    return dict(zip(keys, values, strict=True))


def _floor(blocks: Sequence[PromptBlock], cut: Sequence[Sequence[str]]) -> Floats:
    """Mean similarity of each prompt's passing reference samples to those of other prompts of the part, [P].

    Those of other categories where the part has any; NaN for a prompt without a partner.
    """
    several = len({block.category for block in blocks}) > 1
    kept = [np.flatnonzero(block.passes_N[: block.num_reference]).tolist() for block in blocks]
    left, right, owner = [], [], []
    for index, block in enumerate(blocks):
        for step in range(1, min(_PARTNERS, len(blocks) - 1) + 1):
            other = (index + step) % len(blocks)
            if not kept[other] or (several and blocks[other].category == block.category):
                continue
            left += [cut[index][i] for i in kept[index]]
            right += [cut[other][kept[other][(i + step) % len(kept[other])]] for i in range(len(kept[index]))]
            owner += [index] * len(kept[index])
    common = cpdist(left, right, scorer=LCSseq.similarity, dtype=np.int32)
    total = np.array([len(a) + len(b) for a, b in zip(left, right, strict=True)])
    f1 = np.where(total > 0, 2 * common / np.maximum(total, 1), 1.0)
    num_P = np.bincount(owner, minlength=len(blocks))
    sum_P = np.bincount(owner, weights=f1, minlength=len(blocks))
    return np.where(num_P > 0, sum_P / np.maximum(num_P, 1), np.nan)
