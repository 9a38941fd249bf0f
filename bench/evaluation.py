"""Everything that the evaluation promises in figures: metrics against their oracles, statistics, safety, generation, the gate.

    make bench NAME=evaluation        (QUICK=1: a smaller form; ARGS="metrics gate": these topics alone)
    python -m bench.evaluation

Each topic is a module ``bench/evaluation_<topic>.py`` whose docstring says what is measured on which data; without a topic
all of them run, one after the other. Oracles lie in the shared data folder (KTO_SHARED_DATA).
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Sequence

from bench.report import CannotRunError, Row, main

TOPICS = ("metrics", "suites", "safety", "statistics", "collapse", "gate", "generation")


def measure(quick: bool) -> Sequence[Row]:
    chosen = sys.argv[1:] or list(TOPICS)
    unknown = [name for name in chosen if name not in TOPICS]
    if unknown:
        raise CannotRunError(f"{', '.join(unknown)}: no such topic; there are {', '.join(TOPICS)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found: list[Row] = []
    for name in chosen:
        started = time.monotonic()
        found += importlib.import_module(f"bench.evaluation_{name}").rows(quick)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    sys.exit(
        main("evaluation", measure, packages=("torch", "transformers", "numpy", "rapidfuzz", "nltk", "rouge-score"))
    )
