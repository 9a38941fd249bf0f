"""Command line of the alignment library: ``python -m worker.alignment train spec.json``.

Exit codes: 0 succeeded or stopped on request, 1 failed (run_finished in events.jsonl says why), 2 the spec is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from worker.alignment.errors import SpecError
from worker.alignment.train import read_spec, run_spec


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker.alignment", description="KTO alignment of a causal LM with LoRA."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train one attempt; SIGTERM finishes the step, saves and exits 0")
    train.add_argument("spec", type=Path, help="JSON file of a TrainSpec")
    options = parser.parse_args(arguments)
    try:
        return run_spec(read_spec(options.spec))
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
