"""KTO against DPO: what was found in every contrast of the arms, and the sentence to defend.

Where nothing was found it says what could have been found; there is never a bare winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.alignment.evaluation.contrasts import ContrastDecision, Measure, Verdict, contrast
from worker.alignment.evaluation.decision_words import detail, headline

CONTRASTS = (
    ("kto_all", "dpo"),
    ("kto_paired", "dpo"),
    ("kto_all", "kto_paired"),
    ("dpo", "reference"),
    ("prompt", "reference"),
    ("kto_all", "prompt"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    verdict: Verdict
    """Of the first contrast, KTO against DPO."""
    headline: str
    detail: str
    num_seeds: int
    contrasts: list[ContrastDecision]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def decide(primary: Measure, guards: Sequence[Measure]) -> Decision:
    """Every contrast whose two arms the primary has scores of; the first of CONTRASTS always, without evidence if need be."""
    found = [
        contrast(primary, guards, first, second)
        for first, second in CONTRASTS
        if (first, second) == CONTRASTS[0] or (primary.scores.get(first) and primary.scores.get(second))
    ]
    return Decision(
        verdict=found[0].verdict,
        headline=headline(found[0]),
        detail=detail(found),
        num_seeds=max((len(seeds) for seeds in primary.scores.values()), default=0),
        contrasts=found,
    )
