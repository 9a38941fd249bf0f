"""What to look at in a rater: each flag is a stated test with a stated false-alarm rate. A flag excludes nobody.

- **straight-lining**: a run of equal verdicts too long to come of judging. If verdicts were independent with up-rate p, a run
  of k or more ups among n has a probability of at most p^k (1 + (n - k)(1 - p)) (each run starts at the first verdict or after a
  down). Flagged when the sum of this bound and that for downs is below 0.1 %. p is the rater's own up-rate; where that is beyond
  2 to 98 % (nearly one verdict) it is the peers' up-rate, at the nearest within 2 to 98 %.
- **too fast**: more than half of the verdicts took less time than 95 % of the peers' verdicts did. If the rater were as quick
  as the peers, that has a probability of P(Binomial(n, 0.05) > n / 2), with the least n of 20 below 1e-7.
- **disagrees with gold**: the upper end of the 95 % interval of accuracy on gold items is below 80 %: at most 2.5 % of raters
  whose accuracy is 80 % or more.
- **differs from peers**: the up-rate differs from the peers' by 20 points or more with its whole 95 % interval.
- **burst**: the rater took part in a burst of one-sided ratings by new raters (see ``raters_bursts``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.feedback.raters import RaterFigures

RUN_ALARM = 0.001
NEARLY_ONE = 0.02
FAST_SHARE, FAST_QUANTILE, MIN_TIMES = 0.5, 5.0, 20
GOLD_LIMIT, MIN_GOLD = 0.8, 5
PEER_LIMIT = 0.2


@dataclass(frozen=True, slots=True)
class Flag:
    word: str
    reason: str


def flags(item: RaterFigures, *, in_burst: bool = False) -> list[Flag]:
    found = [_straight(item), _fast(item), _gold(item), _peers(item)]
    if in_burst:
        found.append(Flag("burst", "New, and part of a burst of one-sided ratings."))
    return [flag for flag in found if flag is not None]


def longest_run(verdicts: str) -> tuple[int, str]:
    """Its length, and which verdict: "1" up, "0" down."""
    best, which, length = 0, "", 0
    for place, value in enumerate(verdicts):
        length = length + 1 if place and verdicts[place - 1] == value else 1
        if length > best:
            best, which = length, value
    return best, which


def run_bound(length: int, n: int, share: float) -> float:
    """Upper bound of the probability that ``length`` or more of one kind with this share follow each other among ``n``."""
    if length > n or not length:
        return float(not length)
    return min(share**length * (1 + (n - length) * (1 - share)), 1.0)


def _straight(item: RaterFigures) -> Flag | None:
    n = len(item.verdicts)
    length, which = longest_run(item.verdicts)
    share = item.verdicts.count("1") / n if n else 0.5
    if not NEARLY_ONE <= share <= 1 - NEARLY_ONE:
        if item.expected is None:
            return None
        share = min(max(item.expected, NEARLY_ONE), 1 - NEARLY_ONE)
    if run_bound(length, n, share) + run_bound(length, n, 1 - share) >= RUN_ALARM:
        return None
    word = "desirable" if which == "1" else "undesirable"
    return Flag("straight-lining", f"{length} verdicts in a row are {word}, of the last {n:,}.")


def _fast(item: RaterFigures) -> Flag | None:
    if len(item.times_ms) < MIN_TIMES or len(item.peer_times_ms) < MIN_TIMES:
        return None
    limit = float(np.percentile(item.peer_times_ms, FAST_QUANTILE))
    quick = sum(took < limit for took in item.times_ms) / len(item.times_ms)
    if quick <= FAST_SHARE:
        return None
    return Flag(
        "too fast",
        f"{quick:.0%} of the verdicts took less than {limit / 1000:.1f} s, as 5 % of the verdicts of peers do.",
    )


def _gold(item: RaterFigures) -> Flag | None:
    gold = item.gold
    if gold is None or gold.n < MIN_GOLD or gold.high >= GOLD_LIMIT:
        return None
    return Flag("disagrees with gold", f"Right on {gold.value:.0%} of {gold.n} gold items.")


def _peers(item: RaterFigures) -> Flag | None:
    found = item.against_peers
    if found is None or (found.low < PEER_LIMIT and found.high > -PEER_LIMIT):
        return None
    side = "more" if found.value > 0 else "less"
    return Flag(
        "differs from peers",
        f"Up {abs(found.value) * 100:.0f} points {side} often than peers, on the same {item.peers_on}.",
    )
