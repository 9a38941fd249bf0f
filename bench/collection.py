"""Everything that the collection promises in figures: ingest, annotation, lists and search, imports and exports.

    make bench NAME=collection        (QUICK=1: a smaller form; ARGS="ingest lists": these topics alone)
    python -m bench.collection

Each topic is a module ``bench/collection_<topic>.py`` whose docstring says what is measured beside what; without a topic all of
them run, one after the other. The bundled PostgreSQL with fsync, so that every commit is on disk; the load generator runs on
the same cores. ``annotate`` installs Label Studio into an environment of its own.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from bench.report import CannotRunError, Row, main, not_run

TOPICS = ("ingest", "annotate", "lists", "import", "export")


def measure(quick: bool) -> Sequence[Row]:
    chosen = sys.argv[1:] or list(TOPICS)
    unknown = [name for name in chosen if name not in TOPICS]
    if unknown:
        raise CannotRunError(f"{', '.join(unknown)}: no such topic; there are {', '.join(TOPICS)}")
    found: list[Row] = []
    # A process each: the connections of one topic's services must not outlive these.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for name in chosen:
            started = time.monotonic()
            try:
                found += pool.submit(_topic, name, quick).result()
            except Exception as error:  # the hour that the others took is not thrown away
                print(f"{name} could not run: {error}", file=sys.stderr, flush=True)
                found.append(not_run(name, ""))
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return found


def _topic(name: str, quick: bool) -> list[Row]:
    return list(importlib.import_module(f"bench.collection_{name}").rows(quick))


if __name__ == "__main__":
    sys.exit(main("collection", measure, packages=("fastapi", "uvicorn", "sqlalchemy", "psycopg", "redis", "pyarrow")))
