"""Sampling for the evaluation (worker.alignment.generate) beside ``model.generate`` for one prompt after the other.

    make bench NAME=evaluation        (QUICK=1: under a minute)
    python -m bench.evaluation

A random Llama of the demo's size, K = 4 samples for each of the demo corpus's prompts, one thread, CPU seconds; the plain
loop asks for its K samples in one call. Sampled tokens count up to and with the end token. Both sides also answer greedily
once, and these answers must be the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.report import Row, interleave, main, ratios, row

SAMPLES_PER_PROMPT = 4


def measure(quick: bool) -> Sequence[Row]:
    import time

    import torch

    from bench.sampling import Sides

    torch.set_num_threads(1)
    sides = Sides(num_prompts=8 if quick else 24, samples=SAMPLES_PER_PROMPT, max_new_tokens=32 if quick else 64)
    rounds = 3 if quick else 7
    spent = interleave({"ours": sides.ours, "plain": sides.plain}, rounds, clock=time.process_time)
    ours = ratios(sides.tokens["ours"][1:], spent["ours"])
    plain = ratios(sides.tokens["plain"][1:], spent["plain"])
    same = sides.greedy_agreement()
    return [
        row("ours", "tokens / CPU s", ours),
        row("plain loop", "tokens / CPU s", plain),
        row("ours / plain", "x", ratios(ours, plain), at_least=1.0),
        row("prompts with the same greedy answer", "share", same, value=sum(same) / len(same), at_least=1.0),
    ]


if __name__ == "__main__":
    sys.exit(main("evaluation", measure, packages=("torch", "transformers")))
