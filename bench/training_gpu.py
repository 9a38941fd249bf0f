"""One KTO optimizer step of our trainer against TRL's KTOTrainer on a CUDA device, in wall-clock seconds.

    make bench NAME=training_gpu      (QUICK=1: the small model only)
    python -m bench.training_gpu

Random Llamas of the shapes of Llama 3.2 1B and Llama 3 8B in bfloat16, vocabulary 128k, LoRA of rank 16; nothing is fetched.
TRL defaults: as shipped, 8 rows a pass, the reference in every step. TRL best: precomputed reference, the largest pass that
fits without checkpointing, or the largest with it, whichever is faster. Where TRL is missing its rows say ``not run``.
Utilisation is of real tokens (``training_products.needed_flops``) against a large bfloat16 product in the same run. Peak
memory is the frozen weights and what a side's heaviest step takes beside what lies there already.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report import CannotRunError, Row, interleave, main, not_run, ratio_of_sums, row

if TYPE_CHECKING:
    import torch

    from bench.training_gpu_sides import GpuBench, Size


def measure(quick: bool) -> Sequence[Row]:
    import torch

    if not torch.cuda.is_available():
        raise CannotRunError("it needs a CUDA device, and torch finds none.")
    print(torch.cuda.get_device_name(), file=sys.stderr)
    sizes = real_sizes()
    rows: list[Row] = []
    for name in list(sizes)[:1] if quick else sizes:
        rows += compare(name, sizes[name], torch.device("cuda"))
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def real_sizes() -> dict[str, Size]:
    from bench.training_gpu_sides import Size
    from bench.training_model import Shape

    one = Shape(vocab=128_256, hidden=2048, layers=16, heads=32, kv_heads=8, intermediate=8192, tied=True)
    eight = Shape(vocab=128_256, hidden=4096, layers=32, heads=32, kv_heads=8, intermediate=14_336)
    return {"1B": Size(shape=one, rows=64, utilisation=0.35), "8B": Size(shape=eight, rows=32, utilisation=0.5)}


def compare(name: str, size: Size, device: torch.device) -> list[Row]:
    """All rows of one size. On a CPU (for tests) those that ask CUDA are not run."""
    from bench.training_gpu_sides import GpuBench

    with tempfile.TemporaryDirectory() as folder:
        bench = GpuBench(size, device, folder)
        rate = bench.matmul_rate()
        spent = interleave(bench.sides(), size.rounds)
        waits = [bench.waits_per_pass()] if device.type == "cuda" else []
    for line in bench.notes:
        print(f"{name}: {line}", file=sys.stderr)
    achieved = [flops / seconds / rate for flops, seconds in zip(bench.flops, spent["ours"], strict=True)]
    title = f"{name} host waits for the device per microbatch"
    return [
        *(row(f"{name} {side}", "examples/s", [size.rows / each for each in spent[side]]) for side in spent),
        row(f"{name} bare product", "TFLOP/s", [rate / 1e12]),
        row(f"{name} utilisation on real tokens", "of it", achieved, at_least=size.utilisation),
        _speed(f"{name} TRL defaults / ours", spent, "TRL defaults", "ours", at_least=3),
        _speed(f"{name} TRL best / ours", spent, "TRL best", "ours", at_least=1.6),
        _speed(f"{name} TRL defaults / ours recomputing", spent, "TRL defaults", "ours, recomputing", at_least=1),
        _memory(f"{name} peak memory, ours recomputing / TRL defaults", bench),
        *(row(f"{name} peak memory, {side}", "GiB", [peak / 2**30]) for side, peak in bench.peaks.items()),
        row(title, "waits", waits, at_most=0) if waits else not_run(title, "waits", at_most=0),
    ]


def _speed(name: str, spent: dict[str, list[float]], theirs: str, ours: str, *, at_least: float) -> Row:
    if theirs not in spent:
        return not_run(name, "x", at_least=at_least)
    return ratio_of_sums(name, spent[theirs], spent[ours], at_least=at_least)


def _memory(name: str, bench: GpuBench) -> Row:
    if "TRL defaults" not in bench.peaks:
        return not_run(name, "x", at_most=1)
    return row(name, "x", [bench.peaks["ours, recomputing"] / bench.peaks["TRL defaults"]], at_most=1)


if __name__ == "__main__":
    opponent = ("trl",) if importlib.util.find_spec("trl") else ()
    sys.exit(main("training_gpu", measure, packages=("torch", "transformers", "peft", *opponent)))
