"""Peak memory of one side's heaviest step, each in a process of its own; ``bench.training`` starts it.

    python -m bench.training_memory ours|defaults|precompute|honest|lean VOCABULARY

Prints one number: the bytes of the process's highest resident size, imports and weights included, after one warm-up step.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.report import CannotRunError

NUM_BATCHES = 32


def peak_bytes(side: str, vocab: int, *, small: bool = False) -> int:
    """Of a fresh process. Raises CannotRunError where the system does not tell a process's own peak."""
    if not Path("/proc/self/status").exists():
        raise CannotRunError("peak memory is read from /proc, which this system lacks.")
    command = [sys.executable, "-m", "bench.training_memory", side, str(vocab), *(["small"] if small else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotRunError(f"the process for {side} failed: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.split()[-1])


def step_twice(side: str, vocab: int, *, small: bool) -> None:
    """A warm-up step on an ordinary batch, then the one with most tokens of 32. Reference values do not matter here."""
    import numpy as np
    import torch

    from bench.training_model import Ours, Shape, bench_config, peft_config, random_batches, random_llama, small_shape

    torch.set_num_threads(1)
    base = random_llama(small_shape(vocab) if small else Shape(vocab=vocab))
    config = bench_config()
    batches = random_batches(NUM_BATCHES, vocab, scale=0.3 if small else 1)
    known = np.zeros(2 * len(batches[0].pairs))
    steps = [batches[0], max(batches, key=lambda batch: batch.num_tokens)]
    if side == "ours":
        ours = Ours(base, config)
        for batch in steps:
            ours.step(ours.step_batch(batch, known))
        return
    from bench.trl_kto import VARIANTS, kto_examples, trl_kto

    with tempfile.TemporaryDirectory() as folder:
        variant = next(name for name in VARIANTS if name == side)
        opponent = trl_kto(base, peft_config(config.lora), {}, variant, folder=folder)
        for batch in steps:
            opponent.step(kto_examples(batch, known))


def main(arguments: list[str]) -> int:
    side, vocab, *small = arguments
    step_twice(side, int(vocab), small=bool(small))
    status = Path("/proc/self/status").read_text(
        encoding="ascii"
    )  # getrusage would count the parent's size before exec
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    print(int(line.split()[1]) * 1024)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
