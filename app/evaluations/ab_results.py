"""What a closed blind A/B showed."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import AbItem, AbTest, AbVote
from app.web.formats import num, pct
from worker.alignment.evaluation.bradley_terry import (
    MIN_CLUSTERS,
    SelfConsistency,
    Vote,
    fit,
    fleiss_kappa,
    self_consistency,
    vote_counts,
)
from worker.alignment.evaluation.decision_words import count
from worker.alignment.evaluation.paired import POWER
from worker.alignment.evaluation.student import t_quantile
from worker.alignment.events import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class AbResult:
    """Shares of arm a, ties half; intervals clustered by prompt and rater."""

    num_a: int
    num_ties: int
    num_b: int
    raw: float
    """Votes for a and half the ties, as they were given."""
    win_rate: Estimate
    """Bradley-Terry, with the position's effect taken out."""
    left_rate: Estimate
    """Between equals: 0.5 is no effect of the side."""
    kappa: float | None
    """Fleiss: None without two raters on one pair."""
    consistency: SelfConsistency
    num_prompts: int
    num_raters: int

    @property
    def verdict(self) -> int:
        """1 where a is preferred, -1 where b is, 0 where there is no evidence either way."""
        low, high = self.win_rate.low, self.win_rate.high
        if low is None or high is None or low <= 0.5 <= high:
            return 0
        return 1 if low > 0.5 else -1


def result_of(db: Session, test: AbTest) -> AbResult | None:
    """None where nobody voted. Repeats count for self-consistency alone."""
    rows = db.execute(
        select(AbItem.id, AbItem.repeat_of, AbVote.user_id, AbVote.choice, AbVote.left)
        .join(AbItem, AbItem.id == AbVote.item_id)
        .where(AbItem.test_id == test.id)
        .order_by(AbVote.created_at, AbVote.id)
    ).all()
    votes = [
        (
            repeat_of is not None,
            Vote(
                prompt=repeat_of or item_id,
                rater=user_id,
                left=left,
                right="b" if left == "a" else "a",
                score=0.5 if choice == "tie" else float(choice == left),
            ),
            choice,
        )
        for item_id, repeat_of, user_id, choice, left in rows
    ]
    first = [(vote, choice) for is_repeat, vote, choice in votes if not is_repeat]
    if not first:
        return None
    counted = [choice for _, choice in first]
    strengths = fit([vote for vote, _ in first], ("b", "a"))
    num_a, num_ties, num_b = (counted.count(choice) for choice in ("a", "tie", "b"))
    return AbResult(
        num_a=num_a,
        num_ties=num_ties,
        num_b=num_b,
        raw=(num_a + num_ties / 2) / len(counted),
        win_rate=strengths.win_rate("a", "b"),
        left_rate=strengths.left_rate,
        kappa=fleiss_kappa(vote_counts([vote for vote, _ in first])),
        consistency=self_consistency([vote for vote, _ in first] + [vote for again, vote, _ in votes if again]),
        num_prompts=strengths.num_prompts,
        num_raters=strengths.num_raters,
    )


def sentence(test: AbTest, result: AbResult) -> str:
    """Never a bare winner."""
    found, there = result.win_rate, f"{count(result.num_prompts, 'prompt')} and {count(result.num_raters, 'rater')}"
    if found.low is None or found.high is None:
        return (
            f"Not enough evidence: {there}. An interval needs at least {MIN_CLUSTERS} of each; "
            f"{test.arm_a} was preferred in {pct(result.raw)} of the votes, ties half."
        )
    bounds = f"95\u00a0% interval {num(100 * found.low, 1)} to {pct(found.high)}"
    if result.verdict == 0:
        df = min(result.num_prompts, result.num_raters) - 1
        half = (found.high - found.low) / 2 * (1 + t_quantile(POWER, df) / t_quantile(0.975, df))
        return (
            f"{test.arm_a} and {test.arm_b}: no evidence of a difference (we could have seen \u2265\u00a0{num(100 * half, 1)} "
            f"points). {test.arm_a} was preferred in {pct(found.value)}, {bounds}."
        )
    ahead, behind = (test.arm_a, test.arm_b) if result.verdict > 0 else (test.arm_b, test.arm_a)
    return f"Raters prefer {ahead} to {behind}: {test.arm_a} in {pct(found.value)} of pairs, {bounds}."
