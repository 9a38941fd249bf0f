"""The sides of ``bench.training_gpu``: whole optimizer steps on copies of one model that share its frozen weights."""

from __future__ import annotations

import gc
import importlib.util
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.training_model import Ours, Shape, bench_config, peft_config, random_batches, random_llama, twin
from bench.training_products import needed_flops
from bench.trl_kto import Variant, kto_examples, trl_kto
from worker.alignment.errors import is_out_of_memory
from worker.alignment.reference import ReferenceCache

Step = Callable[[int], object]
TRL_ROWS = 8
"""Rows of a pass in TRL's defaults."""
SMALL_BUDGET = 2048
"""Tokens of a pass when the host's waits are counted over several passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    shape: Shape
    rows: int
    """Of one optimizer step."""
    utilisation: float | None = None
    """What must be reached."""
    rounds: int = 6
    scale: float = 1.0
    """Of the rows' lengths; see ``random_batches``."""


class GpuBench:
    """Steps take the round's number, -1 for the warm-up."""

    def __init__(self, size: Size, device: torch.device, folder: str) -> None:
        self.size, self.device, self._folder = size, device, folder
        self.has_trl = importlib.util.find_spec("trl") is not None
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._base = random_llama(size.shape, dtype=self.dtype, device=str(device))
        self._weights = sum(parameter.nbytes for parameter in self._base.parameters())
        self.config = bench_config()
        self.ours = Ours(twin(self._base), self.config)
        self.batches = random_batches(size.rounds + 1, size.shape.vocab, rows=size.rows, scale=size.scale)
        self.notes = [notice] if (notice := self.ours.probe(self.batches)) else []
        cache = ReferenceCache(Path(folder), "00" * 32)
        self._known = [self.ours.reference(batch, cache) for batch in self.batches]
        self.flops = [needed_flops(batch, size.shape) for batch in self.batches[1:]]
        self.peaks: dict[str, int] = {}
        """Bytes on the device by side: the frozen weights, and what its heaviest step took beside what was there."""

    def sides(self) -> dict[str, Step]:
        sides = {"ours": self._ours_fitted(), "ours, recomputing": self._ours(self.size.shape.layers)}
        if self.has_trl:
            sides["TRL defaults"] = self._trl("defaults", -(-self.size.rows // TRL_ROWS))
            sides["TRL best"] = self._trl_best()
        return {name: self._metered(name, step) for name, step in sides.items()}

    def matmul_rate(self) -> float:
        """Floating-point operations a second of one large square product in the model's dtype, the best of five tries."""
        width, times = (8192, 20) if self.device.type == "cuda" else (256, 5)
        left, right = (torch.randn(width, width, device=self.device, dtype=self.dtype) for _ in range(2))
        seconds = []
        for _ in range(6):
            self._wait()
            began = time.perf_counter()
            for _ in range(times):
                torch.mm(left, right)
            self._wait()
            seconds.append(time.perf_counter() - began)
        return 2 * width**3 * times / min(seconds[1:])

    def waits_per_pass(self) -> float:
        """How often the host waits for the device in each further forward and backward pass of one step."""
        few, waits_few = self._waits(self.config.tokens_per_microbatch)
        many, waits_many = self._waits(SMALL_BUDGET)
        return (waits_many - waits_few) / (many - few)

    def _waits(self, budget: int) -> tuple[int, int]:
        """(passes, waits) of a step with this token budget, its first run left out."""
        ours, batch = self.ours, self.ours.step_batch(self.batches[0], self._known[0])
        before, ours.settings = ours.settings, replace(ours.settings, token_budget=budget)
        try:
            ours.step(batch)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                ours.gradient(batch)
                torch.cuda.set_sync_debug_mode("default")
        finally:
            torch.cuda.set_sync_debug_mode("default")
            ours.settings = before
            ours.optimizer.zero_grad(set_to_none=True)
        passes = len(ours.policy.cuts(batch.pairs, token_budget=budget))
        return passes, sum("synchroniz" in str(warning.message) for warning in caught)

    def _ours(self, num_recomputed: int) -> Step:
        def step(number: int) -> float:
            self.ours.recompute(num_recomputed)
            return self.ours.step(self.ours.step_batch(self.batches[number + 1], self._known[number + 1]))

        return step

    def _ours_fitted(self) -> Step:
        """With the fewest recomputed layers that fit, in quarters of the model."""
        layers = self.size.shape.layers
        for quarter in range(5):
            step = self._ours(layers * quarter // 4)
            if self._fits(step):
                self.notes.append(f"ours recomputes {layers * quarter // 4} of {layers} layers")
                return step
        raise MemoryError("Our step does not fit the device, all layers recomputed.")

    def _trl(self, variant: Variant, passes: int) -> Step:
        base, lora = twin(self._base), peft_config(self.config.lora)
        rows = -(-self.size.rows // passes)
        side = trl_kto(base, lora, self.ours.adapters(), variant, folder=self._folder, per_device_rows=rows)

        def step(number: int) -> torch.Tensor:
            return side.step(kto_examples(self.batches[number + 1], self._known[number + 1]), parts=passes)

        return step

    def _trl_best(self) -> Step:
        """The faster of its two ways with a precomputed reference: no checkpointing in passes that fit, or checkpointing."""
        found: list[tuple[float, str, Step]] = []
        ways: list[tuple[Variant, str]] = [("honest", "no checkpointing"), ("lean", "checkpointing")]
        for variant, words in ways:
            for passes in (1, 2, 4, 8):
                step = self._trl(variant, passes)
                if self._fits(step):
                    began = time.perf_counter()
                    step(-1)
                    self._wait()
                    found.append((time.perf_counter() - began, f"{words}, {passes} passes a step", step))
                    break
        if not found:
            raise MemoryError("No setting of TRL fits the device.")
        _, words, best = min(found, key=lambda way: way[0])
        self.notes.append(f"TRL best: precomputed reference, {words}")
        return best

    def _fits(self, step: Step) -> bool:
        """Tried on the heaviest batch; warms the kernels at the same time."""
        heaviest = max(range(len(self.batches)), key=lambda index: self.batches[index].num_tokens)
        try:
            step(heaviest - 1)
            self._wait()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.ours.optimizer.zero_grad(set_to_none=True)
        else:
            return True
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _metered(self, name: str, step: Step) -> Step:
        if self.device.type != "cuda":
            return step

        def run(number: int) -> None:
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            step(number)
            torch.cuda.synchronize()
            taken = self._weights + torch.cuda.max_memory_allocated() - before
            self.peaks[name] = max(self.peaks.get(name, 0), taken)

        return run

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
