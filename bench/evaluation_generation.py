"""Sampling for the evaluation (worker.alignment.generate) beside ``model.generate`` for one prompt after the other.

    rows(quick) -> list[Row], joined by bench.evaluation.

Random Llamas of the demo's size and of hidden size 512 with 8 layers, K = 4 samples for each of the demo corpus's prompts, one
thread, CPU seconds; the plain loop asks for its K samples in one call, and of the larger model answers fewer prompts. Sampled
tokens count up to and with the end token. Both sides also answer greedily once, and these answers must be the same. The cost of
a checkpoint is SCREEN (661 categories, P = 2, K = 4, 128 tokens, nothing ends early) at the rate measured here.

vLLM, in process or as a server, is another path (worker.alignment.generate_remote) and is not measured here.
"""

from __future__ import annotations

import time

from bench.report import Row, interleave, ratios, row

SAMPLES_PER_PROMPT = 4
SCREEN_TOKENS = 661 * 2 * SAMPLES_PER_PROMPT * 128


def rows(quick: bool) -> list[Row]:
    import torch

    from bench.sampling import DEMO, LARGER, Sides

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        demo = Sides(
            num_prompts=24 if quick else 64,
            num_plain=6 if quick else 16,
            samples=SAMPLES_PER_PROMPT,
            max_new_tokens=32 if quick else 64,
            sizes=DEMO,
        )
        larger = Sides(
            num_prompts=16 if quick else 32,
            num_plain=2 if quick else 4,
            samples=SAMPLES_PER_PROMPT,
            max_new_tokens=16 if quick else 32,
            sizes=LARGER,
        )
        return [
            *_rates("demo size", demo, 2 if quick else 5),
            *_rates("hidden 512, 8 layers", larger, 1 if quick else 3),
        ]
    finally:
        torch.set_num_threads(threads)


def _rates(name: str, sides: object, rounds: int) -> list[Row]:
    from bench.sampling import Sides

    assert isinstance(sides, Sides)
    spent = interleave({"ours": sides.ours, "plain": sides.plain}, rounds, clock=time.process_time)
    ours = ratios(sides.tokens["ours"][1:], spent["ours"])
    plain = ratios(sides.tokens["plain"][1:], spent["plain"])
    same = sides.greedy_agreement()
    return [
        row(f"sampling, {name}: ours", "tokens / CPU s", ours),
        row(f"sampling, {name}: plain loop", "tokens / CPU s", plain),
        row(f"sampling, {name}: ours / plain", "x", ratios(ours, plain), at_least=3),
        row(
            f"sampling, {name}: prompts with the same greedy answer",
            "share",
            same,
            value=sum(same) / len(same),
            at_least=1.0,
        ),
        row(f"SCREEN of 661 categories x 2 x 4 x 128 tokens, {name}", "CPU s", [SCREEN_TOKENS / rate for rate in ours]),
    ]
