"""The figures of ``bench.learning``: AUC of a reward on held-out rows, its interval, and the paired difference of two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np

from worker.alignment.evaluation.heldout import heldout_result
from worker.alignment.evaluation.screen import HeldoutRows
from worker.alignment.evaluation.stats import auc, bootstrap_interval, cluster_index, weighted_mean
from worker.alignment.events import Estimate


def together(runs: Sequence[HeldoutRows]) -> HeldoutRows:
    """All seeds as one: a prompt counts once a seed, and its rows under all seeds are drawn together (same root)."""
    names = [each.name for each in fields(HeldoutRows)]
    joined = {name: np.concatenate([getattr(run, name) for run in runs]) for name in names}
    keys = [f"{number} {key}" for number, run in enumerate(runs) for key in run.prompt_keys]
    return HeldoutRows(**joined | {"prompt_keys": np.asarray(keys, dtype=object)})


def within_prompt(rows: HeldoutRows) -> Estimate:
    """Mean AUC over prompts, with the interval of the product's own evaluation (roots resampled)."""
    return heldout_result(rows, 1.0).auc_within_prompt


def pooled_auc(rows: HeldoutRows) -> Estimate:
    return heldout_result(rows, 1.0).auc


def length_rows(rows: HeldoutRows, *, shorter_is_better: bool) -> HeldoutRows:
    """The same rows judged by the completion's length alone."""
    lengths_N = rows.lengths.astype(np.float64)
    return replace(rows, logratios=-lengths_N if shorter_is_better else lengths_N)


def difference(ours: HeldoutRows, theirs: HeldoutRows) -> Estimate:
    """Mean over prompts of (AUC of ours - AUC of theirs), prompt by prompt, roots resampled."""
    apart, roots = [], []
    for part in _prompts(ours):
        one, other = (auc(rows.logratios[part], rows.labels[part]) for rows in (ours, theirs))
        if one is not None and other is not None:
            apart.append(one - other)
            roots.append(ours.roots[part[0]])
    values_P = np.asarray(apart)
    low, high = bootstrap_interval(*cluster_index(np.asarray(roots, dtype=object)), weighted_mean(values_P))
    return Estimate(value=float(values_P.mean()), low=low, high=high, n=len(values_P))


def _prompts(rows: HeldoutRows) -> Iterator[list[int]]:
    places: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(rows.prompt_keys):
        places[key].append(index)
    yield from places.values()
