"""``python -m worker.demo pretrain --out DIR`` and ``python -m worker.demo feedback --out FILE --model DIR``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker.demo", description="The demo's base model and its feedback."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pretrain = commands.add_parser("pretrain", help="train the demo base model, or keep the one that is there")
    pretrain.add_argument("--out", type=Path, required=True, help="folder of the model")
    pretrain.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    feedback = commands.add_parser("feedback", help="sample completions and let simulated raters judge them")
    feedback.add_argument("--out", type=Path, required=True, help="JSON-lines file for the import")
    feedback.add_argument("--model", type=Path, required=True, help="folder of the demo base model")
    feedback.add_argument("--seed", type=int, default=0)
    feedback.add_argument("--num", type=int, default=1200, help="number of thumbs (default 1200)")
    args = parser.parse_args(argv)
    # Idle threads sleep instead of spinning: ten times faster on a shared machine, where spinning eats the others' time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours says more
    if args.command == "pretrain":
        from worker.demo.pretrain import Recipe
        from worker.demo.pretrain import pretrain as run

        run(args.out, Recipe(), num_threads=args.threads, report=_say)
        return 0
    from worker.demo.feedback import write_feedback

    if not (args.model / "config.json").is_file():
        _say(f"{args.model} holds no model. Run: python -m worker.demo pretrain --out {args.model}")
        return 2
    written = write_feedback(args.out, args.model, seed=args.seed, num=args.num, report=_say)
    _say(f"{written} thumbs written to {args.out}")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
