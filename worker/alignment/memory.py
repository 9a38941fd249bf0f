"""Memory of a loaded model: which decoder layers are recomputed in the backward pass, and what a step really takes.

Hugging Face's own checkpointing needs ``train()`` and its dropout; a policy stays in eval mode, so chosen layers are
wrapped here. Recomputing the FIRST layers is the least peak for their number: by the time backward reaches them, the
activations that the later layers kept are gone.
"""

from __future__ import annotations

import ctypes
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

M_MMAP_THRESHOLD = -3
"""malloc.h"""
MAPPED_BYTES = 512 << 10
"""Larger blocks get pages of their own."""

_recomputing = False


def recomputing() -> bool:
    """Whether a layer runs again inside backward: what a forward pass leaves behind it must not be left twice.

    A module global, not a context variable: on CUDA backward runs in a thread of its own.
    """
    return _recomputing


def decoder_layers(lm: Any) -> nn.ModuleList:
    """The decoder layers of a causal LM, by their number in its config. Raises ValueError where there are none."""
    count = int(lm.config.get_text_config().num_hidden_layers)
    found = [
        (name, module)
        for name, module in lm.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and next(module.parameters(), None) is not None
    ]
    if not found:
        raise ValueError("The model has no list of decoder layers; checkpointing none is the only choice.")
    return max(found, key=lambda item: sum(p.numel() for p in item[1].parameters()))[1]


def recompute_layers(lm: Any, count: int) -> None:
    """From now on recompute the first ``count`` decoder layers in backward; 0 keeps every activation.

    Costs nothing where gradients are off. The second forward sees what the first saw: random state, LoRA dropout on or
    off, and the attention implementation, which is another outside ``packed(...)``.
    """
    if count and next(lm.parameters()).device.type == "cpu":
        _hold_nothing_back()
    for index, layer in enumerate(decoder_layers(lm)):
        name = "forward" if layer._compiled_call_impl is None else "_compiled_call_impl"  # noqa: SLF001 - outside the graph
        now = layer.__dict__.get(name)
        if isinstance(now, _Recomputed):
            if index >= count:
                if now.own:
                    setattr(layer, name, now.plain)
                else:
                    delattr(layer, name)
        elif index < count:
            wrapper = _Recomputed(layer, getattr(layer, name), lm.config.get_text_config(), own=now is not None)
            setattr(layer, name, wrapper)


class _Recomputed:
    """A layer's forward under checkpoint(use_reentrant=False), which takes keywords, tuples and closures as they are."""

    def __init__(self, layer: nn.Module, plain: Callable[..., Any], config: Any, *, own: bool) -> None:
        self.plain = plain
        self.own = own
        """Whether another wrapper had already replaced the class's forward."""
        self._modules = list(layer.modules())
        self._config = config

    def __call__(self, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.plain(hidden, *args, **kwargs)
        return checkpoint(
            partial(self.plain, **kwargs), hidden, *args, use_reentrant=False, context_fn=self._first_and_second
        )

    def _first_and_second(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        training = [module.training for module in self._modules]
        return nullcontext(), self._as_then(training, self._config._attn_implementation)  # noqa: SLF001

    @contextmanager
    def _as_then(self, training: list[bool], attention: str) -> Iterator[None]:
        global _recomputing  # noqa: PLW0603 - see recomputing()
        before = _recomputing, [module.training for module in self._modules], self._config._attn_implementation  # noqa: SLF001
        try:
            _recomputing = True
            self._set(training, attention)
            yield
        finally:
            _recomputing = before[0]
            self._set(before[1], before[2])

    def _set(self, training: list[bool], attention: str) -> None:
        for module, flag in zip(self._modules, training, strict=True):
            module.training = flag
        if self._config._attn_implementation != attention:  # noqa: SLF001
            self._config._attn_implementation = attention  # noqa: SLF001


def _hold_nothing_back() -> None:
    """Let glibc give freed blocks back to the system at once, for the rest of the process.

    Its heap keeps holes between blocks of different sizes, which recomputed layers leave many of: two to four times what is
    alive was measured. A step takes about a quarter more time for it, so nothing is changed where memory is ample.
    """
    with suppress(OSError, AttributeError):  # another C library has no such calls
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        libc.malloc_trim(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Of one forward and backward pass."""

    peak_bytes: int
    """The process's resident memory on CPU, the allocator's on CUDA; everything that was there before included."""
    before_bytes: int
    seconds: float


def measure_step(device: torch.device, parameters: list[nn.Parameter], step: Callable[[], object]) -> StepCost:
    """Run ``step`` (a forward and backward pass) once for its cost, and leave no trace: random states are put back.

    Gradients must be empty before, and are emptied after.
    """
    random = torch.get_rng_state()
    random_cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        with peak_meter(device) as meter:
            began = time.monotonic()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.monotonic() - began
        return StepCost(peak_bytes=meter.peak_bytes, before_bytes=meter.before_bytes, seconds=seconds)
    finally:
        for parameter in parameters:
            parameter.grad = None
        torch.set_rng_state(random)
        if random_cuda is not None:
            torch.cuda.set_rng_state(random_cuda, device)


@dataclass(slots=True)
class PeakMeter:
    before_bytes: int = 0
    peak_bytes: int = 0


@contextmanager
def peak_meter(device: torch.device) -> Iterator[PeakMeter]:
    """Peak memory inside the block. On Linux the kernel's high-water mark is reset; elsewhere it is the process's."""
    meter = PeakMeter()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        meter.before_bytes = torch.cuda.memory_allocated(device)
        yield meter
        meter.peak_bytes = torch.cuda.max_memory_allocated(device)
        return
    meter.before_bytes = resident_bytes("VmRSS")
    with suppress(OSError):  # not Linux, or not allowed: the mark stays the whole process's, too high and never too low
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    yield meter
    meter.peak_bytes = resident_bytes("VmHWM")


def resident_bytes(field: str = "VmRSS") -> int:
    """``VmRSS`` or its high-water mark ``VmHWM`` of this process."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
