"""One KTO optimizer step of our trainer beside a plain one, on the CPU, in CPU seconds.

    make bench NAME=training          (QUICK=1: under a minute)
    python -m bench.training

A random Llama of the demo's size with LoRA; rows of skewed length; one thread. Both sides make the same steps on copies of
one model, so that the losses of every step must agree. "Reference known" is any epoch after the first, or a second run on the
same rows; "reference included" adds the pass that a first epoch needs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.report import Row, main


def measure(quick: bool) -> Sequence[Row]:
    import torch

    from bench.kto_step import Size, compare

    size = Size(
        vocab=1536,
        hidden=160,
        layers=4,
        heads=5,
        intermediate=448,
        rows_per_step=16 if quick else 32,
        rounds=3 if quick else 8,
    )
    return compare(size, torch.device("cpu"), loss_within=1e-4, step_at_least=1.0)


if __name__ == "__main__":
    sys.exit(main("training", measure, packages=("torch", "transformers", "peft")))
