"""Does the trainer learn? Held-out rows, scored after training on human labels and on the demo task, beside TRL.

    make bench NAME=learning          (QUICK=1: a smaller form, without TRL)
    python -m bench.learning

The reward of a held-out row is its log-ratio under base and adapter. "Within prompt" is the AUC of the reward between the
answers of one prompt, averaged over prompts that carry both labels; intervals resample conversation roots. Three seeds:
each draws its own adapters and order, trains on its own rows and holds another part of the conversations out, so that a prompt
is judged once and by a model that never saw it. Base models are made here (no download) and kept in the user's cache folder.
TRL gets the same rows in the same steps (it could not shuffle them itself), the same settings and a whole step in one pass;
both sides are scored by transformers' own forward.

Human labels are those of ``kto_sample.jsonl`` in KTO_SHARED_DATA; of a dialogue the model reads the last turn. The base has read
none of the rows that are trained on or held out. Learning rate and epochs were chosen on the dev part alone, which no seed
trains on or holds out. "Length only" is the AUC of the answer's length, shorter or longer being better as in the rows trained on.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report import Row, main, row

if TYPE_CHECKING:
    from bench.learning_runs import Task
    from worker.alignment.evaluation.screen import HeldoutRows

DEMO, LENGTH = "demo", "length only"
MARGIN = -0.02
"""How far the lower bound of the difference to TRL may fall below 0."""


def measure(quick: bool) -> Sequence[Row]:
    import torch
    from transformers.utils.logging import disable_progress_bar

    from bench.learning_tasks import demo_tasks, human_tasks
    from bench.trl_kto import require_trl

    if not quick:
        require_trl()
    torch.set_num_threads(1)
    disable_progress_bar()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kto-studio" / "bench"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="kto-learning-") as folder:
        for name, make in ((DEMO, demo_tasks), ("human labels", human_tasks)):
            tasks = make(Path(folder) / make.__name__, cache, quick=quick, report=say)
            rows += _measure_tasks(name, tasks, quick=quick)
    return rows


def _measure_tasks(name: str, tasks: Sequence[Task], *, quick: bool) -> list[Row]:
    """Train both sides with every seed and score the rows that it holds out."""
    from transformers import AutoTokenizer

    from bench.learning_auc import length_rows
    from bench.learning_data import shorter_is_better
    from bench.learning_runs import heldout, reference_logps, train_ours, train_trl

    trainers: dict[str, Callable[..., Any]] = {"ours": train_ours, **({} if quick else {"TRL": train_trl})}
    scored: dict[str, list[HeldoutRows]] = {side: [] for side in (*trainers, LENGTH)}
    for task in tasks:
        tokenizer = AutoTokenizer.from_pretrained(task.base)
        reference_N = reference_logps(task, tokenizer)
        for side, trainer in trainers.items():
            began = time.process_time()
            model = trainer(task, tokenizer)
            say(f"{name}, seed {task.config.seed}, {side}: trained in {time.process_time() - began:.0f} CPU s")
            scored[side].append(heldout(task, tokenizer, model, reference_N))
        shorter = shorter_is_better(task.sides["train"])
        scored[LENGTH].append(length_rows(scored["ours"][-1], shorter_is_better=shorter))
    # A small form on noisy labels would pass or fail by luck.
    return _rows(name, scored, promised=not quick or name == DEMO)


def _rows(name: str, scored: dict[str, list[HeldoutRows]], *, promised: bool) -> list[Row]:
    """``value`` is over all seeds together (a bound: of the 95 % interval); median, min and max are over single seeds."""
    from bench.learning_auc import difference, pooled_auc, together, within_prompt

    rows: list[Row] = []

    def add(what: str, told: float | None, each: Sequence[float | None], at_least: float | None = None) -> None:
        samples = [_number(one) for one in each]
        rows.append(row(f"{name}: {what}", "AUC", samples, value=_number(told), at_least=at_least))

    for side, runs in scored.items():
        every, each = within_prompt(together(runs)), [within_prompt(run) for run in runs]
        add(f"within prompt, {side}", every.value, [one.value for one in each])
        if side == "ours":
            add("within prompt, ours, lower bound", every.low, [one.low for one in each], 0.5 if promised else None)
        every, each = pooled_auc(together(runs)), [pooled_auc(run) for run in runs]
        add(f"pooled, {side}", every.value, [one.value for one in each])
    if "TRL" in scored:
        pairs = list(zip(scored["ours"], scored["TRL"], strict=True))
        every, each = difference(together(scored["ours"]), together(scored["TRL"])), [difference(*two) for two in pairs]
        add("within prompt, ours - TRL", every.value, [one.value for one in each])
        add("within prompt, ours - TRL, lower bound", every.low, [one.low for one in each], MARGIN)
    return rows


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main("learning", measure, packages=("torch", "transformers", "peft")))
