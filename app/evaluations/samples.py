"""Samples of both arms side by side: which openings repeat, and how many answers are different."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Evaluation, EvaluationSample
from worker.alignment.evaluation import texts

OPENING_WORDS = 4
"""Samples share an opening when so many first words are the same (all of them in shorter texts)."""
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Sample:
    opening: str
    """What another sample of the arm begins with as well; "" for none."""
    rest: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class Arm:
    samples: list[Sample]
    num_different: int
    """Distinct answers, as the metric counts them."""


@dataclass(frozen=True, slots=True)
class CategorySamples:
    """One prompt of a category at one checkpoint."""

    category: str
    step: int
    number: int
    """Of the prompt within the category, from 1."""
    num_prompts: int
    prompt: list[Any]
    reference: Arm
    policy: Arm


@dataclass(slots=True)
class _Prompt:
    prompt: list[Any]
    arms: dict[str, list[EvaluationSample]] = field(default_factory=lambda: {"reference": [], "policy": []})


def samples_of(
    db: Session, evaluation: Evaluation, category: str, number: int | None, word_limit: int
) -> CategorySamples | None:
    """The category's prompt ``number`` (from 1), else the one that lost most different answers; None without such samples."""
    found: dict[int, _Prompt] = {}
    for row in db.scalars(
        select(EvaluationSample)
        .where(EvaluationSample.evaluation_id == evaluation.id, EvaluationSample.category == category)
        .order_by(EvaluationSample.prompt_number, EvaluationSample.number)
    ):
        found.setdefault(row.prompt_number, _Prompt(row.prompt)).arms[row.arm].append(row)
    prompts = list(found.values())
    different = [
        {arm: num_different([row.text for row in rows], word_limit) for arm, rows in prompt.arms.items()}
        for prompt in prompts
    ]
    if number is None and prompts:
        number = 1 + max(
            range(len(prompts)), key=lambda at: (different[at]["reference"] - different[at]["policy"], -at)
        )
    if number is None or not 1 <= number <= len(prompts):
        return None
    chosen = prompts[number - 1]
    arms = {arm: Arm(marked(rows), different[number - 1][arm]) for arm, rows in chosen.arms.items()}
    return CategorySamples(
        category, evaluation.step, number, len(prompts), chosen.prompt, arms["reference"], arms["policy"]
    )


def num_different(samples: Sequence[str], word_limit: int) -> int:
    """Distinct answers among the samples, each cut to the word limit of the run."""
    return texts.distinct_k([texts.words(text)[:word_limit] for text in samples]) if samples else 0


def marked(rows: Sequence[EvaluationSample]) -> list[Sample]:
    """The samples with the longest opening that each shares with another one split off."""
    words = [_folded(row.text) for row in rows]
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, found in enumerate(words):
        if found:
            groups[tuple(word for word, _ in found[:OPENING_WORDS])].append(index)
    ends = [0] * len(rows)
    for members in groups.values():
        if len(members) < 2:
            continue
        shared = _num_shared([[word for word, _ in words[index]] for index in members])
        for index in members:
            ends[index] = words[index][shared - 1][1]
    return [Sample(row.text[:end], row.text[end:], row.truncated) for row, end in zip(rows, ends, strict=True)]


def _folded(text: str) -> list[tuple[str, int]]:
    """Words without case and outer punctuation, each with the place in the text where it ends."""
    return [(match.group().casefold().strip(".,;:!?\"'()*_"), match.end()) for match in _WORD.finditer(text)]


def _num_shared(sequences: Sequence[Sequence[str]]) -> int:
    """How many first words all of them have in common."""
    return next(
        (index for index, words in enumerate(zip(*sequences, strict=False)) if len(set(words)) > 1),
        min(len(sequence) for sequence in sequences),
    )
