"""One KTO optimizer step of our trainer against TRL's KTOTrainer, on the CPU: speed and memory.

    make bench NAME=training          (QUICK=1: under a minute; ARGS="32k speed" for a part)
    python -m bench.training          [32k|128k] [speed|shared|memory]

A random Llama (hidden 512, 8 layers, LoRA of rank 16 on every linear map, float32), 8 rows a step, one thread. All sides make
the same steps on copies of one model, in turn within one process, and who goes first rotates; times are CPU seconds of the
process, and a ratio is of the sums over all batches. TRL's variants stand in ``bench/trl_kto.py``. Warm: our reference
log-probs are known, as in any later epoch or run on these rows. Cold: one epoch with nothing known, our start-of-run probe
and reference pass counted. The floating-point rate is the time of the bare products that a step needs
(``bench/training_products.py``) over the step's. Memory is the highest resident size of a fresh process for each side, at the
heaviest of 32 batches. A must is a promise for this model and data, so QUICK has none of them but the loss's.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report import CannotRunError, Row, interleave, main, ratio_of_sums, row, table

PARTS = ("speed", "shared", "memory")
SHARED_TOKENS = 200
LOSS_WITHIN = 1e-4
STRETCH = 2.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A vocabulary, and what the ratios must reach there; None: nothing is promised."""

    vocab: int
    rounds: int = 8
    small: bool = False
    defaults: float | None = None
    cold: float | None = None
    precompute: float | None = None
    honest: float | None = None
    shared: float | None = None
    rate: float | None = None
    memory: float | None = None


FORMS = {
    "32k": Form(vocab=32_000, defaults=5, cold=2.5, precompute=3, honest=2, shared=2.8, rate=0.75, memory=0.45),
    "128k": Form(vocab=128_000, defaults=7, cold=3, precompute=5, honest=2, shared=2.4, rate=0.75, memory=0.5),
}
QUICK_FORMS = {"4k": Form(vocab=4_000, rounds=2, small=True)}


def measure(quick: bool) -> Sequence[Row]:
    from bench.trl_kto import require_trl

    require_trl()
    words = set(sys.argv[1:])
    if unknown := words - {*FORMS, *PARTS}:
        raise CannotRunError(f"{min(unknown)} is no part of it; the parts are {', '.join([*FORMS, *PARTS])}.")
    forms = QUICK_FORMS if quick else {name: FORMS[name] for name in FORMS if name in words or not words & {*FORMS}}
    measures = {"speed": speed, "shared": shared, "memory": memory}
    rows: list[Row] = []
    for name, form in forms.items():
        for part in PARTS:
            if part in words or not words & {*PARTS}:
                print(f"{name}: {part}", file=sys.stderr, flush=True)
                found = measures[part](name, form)
                print(table(found), file=sys.stderr, flush=True)  # the whole takes the better part of an hour
                rows += found
    return rows


def speed(name: str, form: Form) -> list[Row]:
    bench = Bench(form, opponents=("honest", "precompute", "defaults"))
    spent = bench.run(cold=True)
    ours, defaults = spent["ours"], spent["defaults"]
    share = bench.probe_seconds / len(ours)
    cold = [step + known + share for step, known in zip(ours, spent["reference"], strict=True)]
    honest = f"{name} TRL honest / ours (stretch {STRETCH})"
    return [
        row(f"{name} our step", "CPU s", ours),
        row(f"{name} our reference pass, once", "CPU s", spent["reference"]),
        *(row(f"{name} TRL step, {each}", "CPU s", spent[each]) for each in bench.opponents),
        ratio_of_sums(f"{name} TRL defaults / ours, warm", defaults, ours, at_least=form.defaults),
        ratio_of_sums(f"{name} TRL defaults / ours, cold", defaults, cold, at_least=form.cold),
        ratio_of_sums(f"{name} TRL precompute / ours", spent["precompute"], ours, at_least=form.precompute),
        ratio_of_sums(honest, spent["honest"], ours, at_least=form.honest),
        ratio_of_sums(f"{name} rate of floating point / bare products", spent["products"], ours, at_least=form.rate),
        _agreement(f"{name} difference of loss, largest", bench.apart),
    ]


def shared(name: str, form: Form) -> list[Row]:
    bench = Bench(form, opponents=("honest",), shared=SHARED_TOKENS)
    spent = bench.run(cold=False)
    title = f"{name} TRL honest / ours, {SHARED_TOKENS} shared tokens"
    return [
        row(f"{name} our step, shared prompt", "CPU s", spent["ours"]),
        row(f"{name} TRL step, honest, shared prompt", "CPU s", spent["honest"]),
        ratio_of_sums(title, spent["honest"], spent["ours"], at_least=form.shared),
        _agreement(f"{name} difference of loss, shared prompt", bench.apart),
    ]


def memory(name: str, form: Form) -> list[Row]:
    from bench.training_memory import peak_bytes
    from bench.trl_kto import VARIANTS

    sides = ("ours", "honest") if form.small else ("ours", *VARIANTS)
    peaks = {side: float(peak_bytes(side, form.vocab, small=form.small)) for side in sides}
    least = min(peak for side, peak in peaks.items() if side not in {"ours", "lean"})
    rows = [row(f"{name} peak memory, {side}", "GiB", [peak / 2**30]) for side, peak in peaks.items()]
    rows.append(row(f"{name} peak memory, ours / TRL's least", "x", [peaks["ours"] / least], at_most=form.memory))
    if "lean" in peaks:  # no variant of the table: the head TRL keeps for CUDA and checkpointing together
        rows.append(row(f"{name} peak memory, ours / TRL honest, checkpointing", "x", [peaks["ours"] / peaks["lean"]]))
    return rows


def _agreement(name: str, apart: Sequence[float]) -> Row:
    return row(name, "nats", apart, value=max(apart), at_most=LOSS_WITHIN)


class Bench:
    """All sides of one comparison, each with its own adapters and optimizer on shared frozen weights."""

    def __init__(self, form: Form, *, opponents: Sequence[str], shared: int = 0) -> None:
        import torch

        from bench.training_model import Ours, Shape, bench_config, random_batches, random_llama, small_shape, twin

        torch.set_num_threads(1)
        self.opponents = opponents
        self.rounds = form.rounds
        self.shape = small_shape(form.vocab) if form.small else Shape(vocab=form.vocab)
        self.config = bench_config()
        base = random_llama(self.shape)
        self.bases = {name: twin(base) for name in opponents}
        self.ours = Ours(base, self.config)
        self.batches = random_batches(self.rounds + 1, form.vocab, shared=shared, scale=0.3 if form.small else 1)
        self.probe_seconds = 0.0
        self.apart: list[float] = []
        """Largest difference of a batch's loss between ours and any opponent."""

    def run(self, *, cold: bool) -> dict[str, list[float]]:
        """CPU seconds by side and batch, without the warm-up round's. ``cold`` adds the reference pass and the products."""
        from bench.training_model import peft_config
        from bench.training_products import Bare, products_of
        from bench.trl_kto import VARIANTS, kto_examples, trl_kto
        from worker.alignment.reference import ReferenceCache

        ours, batches, losses = self.ours, self.batches, dict[tuple[str, int], float]()
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            if notice := ours.probe(batches):
                print(notice, file=sys.stderr)
            self.probe_seconds = time.process_time() - began
            caches = [ReferenceCache(Path(folder) / part, "00" * 32) for part in ("before", "timed")]
            known = [ours.reference(batch, caches[0]) for batch in batches]
            steps = [ours.step_batch(batch, values) for batch, values in zip(batches, known, strict=True)]

            def our_step(number: int) -> None:
                losses["ours", number] = ours.step(steps[number + 1])

            def opponent(name: str) -> Callable[[int], None]:
                variant = next(each for each in VARIANTS if each == name)
                start = ours.adapters()
                side = trl_kto(self.bases[name], peft_config(self.config.lora), start, variant, folder=folder)

                def step(number: int) -> None:
                    examples = kto_examples(batches[number + 1], known[number + 1])
                    losses[name, number] = float(side.step(examples))

                return step

            sides: dict[str, Callable[[int], object]] = {"ours": our_step}
            if cold:
                products = [products_of(batch, self.shape, self.config.lora.r) for batch in batches]
                bare = Bare([each for batch in products for each in batch])
                sides["reference"] = lambda number: ours.reference(batches[number + 1], caches[1])
                sides["products"] = lambda number: bare.run(products[number + 1])
            sides |= {name: opponent(name) for name in self.opponents}
            spent = interleave(sides, self.rounds, clock=time.process_time)
        self.apart = [
            max(abs(losses["ours", number] - losses[name, number]) for name in self.opponents)
            for number in range(-1, self.rounds)
        ]
        return spent


if __name__ == "__main__":
    sys.exit(main("training", measure, packages=("torch", "transformers", "peft", "trl")))
