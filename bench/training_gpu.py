"""One KTO optimizer step of our trainer beside a plain one, on a CUDA device, in wall-clock seconds.

    make bench NAME=training_gpu      (QUICK=1: under a minute)
    python -m bench.training_gpu

As ``bench.training`` with a larger random Llama in bfloat16. Nothing is promised about its speed yet: no ``must`` but the loss.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.report import CannotRunError, Row, main


def measure(quick: bool) -> Sequence[Row]:
    import torch

    if not torch.cuda.is_available():
        raise CannotRunError("it needs a CUDA device, and torch finds none.")
    from bench.kto_step import Size, compare

    size = Size(
        vocab=32000,
        hidden=1024,
        layers=8 if quick else 16,
        heads=16,
        intermediate=2816,
        rows_per_step=32,
        rounds=4 if quick else 20,
    )
    return compare(size, torch.device("cuda"), loss_within=0.05, step_at_least=None)


if __name__ == "__main__":
    sys.exit(main("training_gpu", measure, packages=("torch", "transformers", "peft")))
