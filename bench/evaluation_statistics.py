"""Whether the evaluation's statistics keep their word: false alarms, power, style shifts, coverage of the intervals.

    python -m bench.evaluation_statistics      (QUICK=1: a smaller pool from the demo's templates, fewer simulations)

The pool is ``bench.evaluation_pool``'s: 24 samples of the demo model for each of 4,000 prompts in 500 categories. A null run
is four disjoint arms of it: the reference and three looks. Bounds of shares are Clopper and Pearson's, two-sided 95 %.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.evaluation_pool import Pool, load, of_templates
from bench.evaluation_simulated import World, blocks_of, look, null_arms, plant, prompts_of, shifted_arms, world
from bench.report import Row, main, not_run, row
from worker.alignment.evaluation.alarms import MARGIN, alarms_of
from worker.alignment.evaluation.blocks import PromptBlock
from worker.alignment.evaluation.collapse import category_tests
from worker.alignment.evaluation.intervals import auc_estimate, clopper_pearson_upper, mean_interval
from worker.alignment.events import Alarm, DiversityResult

Floats = NDArray[np.float64]
MAX_FALSE = 0.08
MIN_POWER = 0.85
COVERAGE_SLACK = 2.0  # points around 95 %


def rows(quick: bool) -> list[Row]:
    pool = of_templates(60) if quick else load()
    source = "templates" if quick else "demo model"
    return [*_alarm_rows(pool, source, quick), *_power_rows(pool, source, quick), *_coverage_rows(quick)]


def _alarm_rows(pool: Pool, source: str, quick: bool) -> Iterator[Row]:
    """Runs in which nothing collapsed: none may raise an alarm."""
    gated = world(pool, with_gate=True)
    runs = 20 if quick else 200
    bound = None if quick else MAX_FALSE  # 20 runs cannot show 8 %
    for what, make in (("null", _null_looks), ("style 50 -> 95 %", _shifted_looks)):
        raised, shifts, rises = [], [], []
        for seed in range(runs):
            results, alarms = make(gated, seed)
            raised.append(float(any(alarm.level != "watch" for alarm in alarms)))
            shifts.append(float(results[-1].style_shift))
            rises.append(results[-1].overall["similarity"].change)
        upper = clopper_pearson_upper(int(sum(raised)), runs)
        name = f"{what} runs with an alarm, upper 95 % bound ({source}, {len(gated.names)} categories)"
        yield row(name, "share", raised, value=upper, at_most=bound)
        yield row(
            f"{what} runs with an alarm",
            "share",
            raised,
            value=float(np.mean(raised)),
            at_most=None if quick else MAX_FALSE,
        )
        if make is _shifted_looks:
            yield row("style 50 -> 95 %: raw similarity rises by", "ROUGE-L", rises, at_least=0.02)
            # Told where the raw rise passes the margin; how often it does depends on the pool.
            told = [shift for shift, rise in zip(shifts, rises, strict=True) if rise >= MARGIN]
            name = "style 50 -> 95 %: runs whose raw rise passes the margin that are told as a style shift"
            if told:
                yield row(name, "share", told, value=float(np.mean(told)), at_least=0.9)
            else:
                yield not_run(name, "share", at_least=0.9)


def _null_looks(gated: World, seed: int) -> tuple[list[DiversityResult], list[Alarm]]:
    """SCREEN (P = 2, K = 4) at three checkpoints of a model that never changed; every tenth run FULL (P = 8, K = 6)."""
    rng = np.random.default_rng([1, seed])
    num_prompts, num_samples = (8, 6) if seed % 10 == 0 else (2, 4)
    prompts = prompts_of(gated, rng, num_prompts)
    return _looks(gated, prompts, null_arms(gated, prompts, rng, num_samples, 4), seed)


def _shifted_looks(gated: World, seed: int) -> tuple[list[DiversityResult], list[Alarm]]:
    """SCREEN at two checkpoints of a model that took a wanted style from half of its answers to 95 %."""
    rng = np.random.default_rng([2, seed])
    prompts = prompts_of(gated, rng, 2)
    return _looks(gated, prompts, shifted_arms(gated, prompts, rng, 4, 3, (0.5, 0.95)), seed)


def _looks(
    gated: World, prompts: NDArray[np.int64], arms: Sequence[NDArray[np.int64]], seed: int
) -> tuple[list[DiversityResult], list[Alarm]]:
    results: list[DiversityResult] = []
    alarms: list[Alarm] = []
    for policy in arms[1:]:
        blocks = blocks_of(gated, prompts, arms[0], policy)
        result = look(gated, blocks, prompts, arms[0], policy, seed)
        alarms += alarms_of(result, results[-1] if results else None)
        results.append(result)
    return results, alarms


def _power_rows(pool: Pool, source: str, quick: bool) -> Iterator[Row]:
    """Half of a category's policy samples become one text, in a tenth of the categories; K = 7, P = 8."""
    for with_gate in (False, True):
        planted_in = world(pool, with_gate=with_gate)
        found, false = [], []
        for seed in range(2 if quick else 6):
            q, is_planted = _planted(planted_in, seed)
            found += [float(value < 0.05) for value in q[is_planted]]
            false.append(float((q[~is_planted] < 0.05).sum()))
        rule = "within the desirable class" if with_gate else "all samples count"
        what = f"50 % collapse in 10 % of {len(planted_in.names)} categories, K = 7, P = 8, {source}, {rule}"
        yield row(f"{what}: found", "share", found, value=float(np.mean(found)), at_least=MIN_POWER)
        yield row(f"{what}: false ones a run", "categories", false, value=float(np.mean(false)))


def _planted(planted_in: World, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """q of every category, and which ones collapsed."""
    rng = np.random.default_rng([3, seed])
    prompts = prompts_of(planted_in, rng, 8)
    reference, policy = null_arms(planted_in, prompts, rng, 7, 2)
    names = planted_in.names
    chosen = set(rng.choice(names, size=max(1, len(names) // 10), replace=False).tolist())

    def perhaps(block: PromptBlock) -> PromptBlock:
        return plant(block, 0.5, rng) if block.category in chosen else block

    blocks = [perhaps(block) for block in blocks_of(planted_in, prompts, reference, policy)]
    tests = {test.category: test.q for test in category_tests(blocks, seed=seed)}
    q = np.array([1.0 if (value := tests[name]) is None else value for name in names])
    return q, np.array([name in chosen for name in names])


def _coverage_rows(quick: bool) -> Iterator[Row]:
    """Rows in clusters whose members agree: pass rates with 5 rows each, scores of unequal clusters, and AUC."""
    simulated = 100 if quick else 2000
    kinds: dict[str, Callable[[np.random.Generator, int], bool | None]] = {
        "pass rate": _covers_rate,
        "mean of unequal clusters": _covers_mean,
        "AUC": _covers_auc,
    }
    for name, covers in kinds.items():
        for num_clusters in (8, 20, 40, 50, 100, 200):
            rng = np.random.default_rng([4, num_clusters])
            told = [inside for _ in range(simulated) if (inside := covers(rng, num_clusters)) is not None]
            share = float(np.mean(told))
            what = f"95 % interval, {name}, {num_clusters} clusters"
            yield row(f"{what}: contains the truth", "share", [float(inside) for inside in told], value=share)
            # 100 simulations are themselves 4 points uncertain
            slack = 8.0 if quick else COVERAGE_SLACK if num_clusters >= 50 else 4.0
            yield row(f"{what}: distance from 95 %", "points", [abs(100 * share - 95)], at_most=slack)


def _covers_rate(rng: np.random.Generator, num_clusters: int) -> bool | None:
    chance = rng.beta(2.0, 1.0, size=num_clusters)  # mean 2/3
    values = (rng.random((num_clusters, 5)) < chance[:, None]).astype(np.float64).ravel()
    return _inside(mean_interval(values, np.repeat(np.arange(num_clusters), 5), seed=int(rng.integers(2**31))), 2 / 3)


def _covers_mean(rng: np.random.Generator, num_clusters: int) -> bool | None:
    clusters = np.repeat(np.arange(num_clusters), rng.integers(1, 9, size=num_clusters))
    values = rng.normal(size=num_clusters)[clusters] + rng.normal(size=len(clusters))
    return _inside(mean_interval(values, clusters, seed=int(rng.integers(2**31))), 0.0)


def _covers_auc(rng: np.random.Generator, num_clusters: int) -> bool | None:
    size, shift, shared = 4, 1.0, 0.7
    clusters = np.repeat(np.arange(num_clusters), size)
    labels = np.tile(np.array([True, False]), num_clusters * size // 2)
    level = shared * rng.normal(size=num_clusters)
    scores = level[clusters] + shift * labels + rng.normal(size=len(labels))
    told = auc_estimate(scores, labels, clusters, seed=int(rng.integers(2**31)))
    if told.low is None or told.high is None:
        return None
    apart, together = (NormalDist().cdf(shift / (2 * spread) ** 0.5) for spread in (1 + shared**2, 1.0))
    truth = apart + (together - apart) / num_clusters  # one pair in num_clusters shares its cluster
    return told.low <= truth <= told.high


def _inside(interval: tuple[float, float] | tuple[None, None], truth: float) -> bool | None:
    low, high = interval
    return None if low is None or high is None else low <= truth <= high


if __name__ == "__main__":
    began = time.monotonic()
    code = main("evaluation_statistics", rows)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    sys.exit(code)
