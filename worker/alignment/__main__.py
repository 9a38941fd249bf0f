"""Command line of the alignment library: ``python -m worker.alignment train|estimate|export|evaluate spec.json``.

Exit codes: 0 done (or stopped on request), 1 failed (run_finished in events.jsonl says why), 2 the spec is wrong: the
last line on stderr is ``field: what is wrong; remedy`` and nothing was written. ``estimate`` answers 1 where a step does not
fit, ``export`` 3 where it refuses.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from worker.alignment.errors import SpecError
from worker.alignment.launch import run_processes
from worker.alignment.train import die_with_parent, read_spec, run_spec


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker.alignment", description="KTO, DPO and SFT of a causal LM with LoRA."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words, kind in (
        ("train", "train one attempt; SIGTERM finishes the step, saves and exits 0", "TrainSpec"),
        ("estimate", "memory and time of a run, from its spec alone", "TrainSpec"),
        ("export", "take a checkpoint out: the adapter, or merged into its base model", "ExportSpec"),
        ("evaluate", "samples of arms on suites and held-out log-ratios; SIGTERM keeps what was drawn", "JobSpec"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("spec", type=Path, help=f"JSON file of a {kind}")
        if name == "train":
            command.add_argument("--processes", type=int, default=1, metavar="N", help="on N devices of this machine")
        if name == "estimate":
            command.add_argument("--probe", action="store_true", help="load the model and measure the longest step")
    options = parser.parse_args(arguments)
    try:
        if options.command == "train" and options.processes > 1:
            die_with_parent()
            read_spec(options.spec)
            return run_processes(options.spec, options.processes)
        if options.command == "train":
            return run_spec(read_spec(options.spec))
        if options.command == "estimate":
            from worker.alignment.estimate_command import estimate_spec

            return estimate_spec(read_spec(options.spec), measure=options.probe)
        if options.command == "evaluate":
            from worker.alignment.evaluate import read_job, run_job

            return run_job(read_job(options.spec))
        from worker.alignment import export

        return export.main([str(options.spec)])
    except SpecError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes one says it
            print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    code = main()
    if (
        "RANK" in os.environ
    ):  # one of several: threads of gloo that let go of a tensor abort an interpreter that shuts down
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
