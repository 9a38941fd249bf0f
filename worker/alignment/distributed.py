"""The processes of one run (``torchrun --nproc-per-node N -m worker.alignment train spec.json``), and how they agree.

Each process has its own device, CUDA or CPU; the data decides who does what, as a pure function that every process
computes for all. What is left to communicate: numbers that are zero where another process knows them (one sum makes them
complete), whether anybody was asked to stop, and how a process failed. One process alone is a ``World`` of size 1, for
which all of this is nothing.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from worker.alignment.errors import Reason, SpecError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

TIMEOUT = timedelta(days=7)
"""Of a collective: one process may evaluate for long, and one that died is noticed otherwise."""
POLL_SECONDS = 0.2
ACKNOWLEDGE_SECONDS = 10.0
"""So long a failed process waits for rank 0 to tell of it, and rank 0 for word of a failure that it suffers from."""
FAILURE, COUNT, TOLD = "kto/failure", "kto/failures", "kto/told"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class World:
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Rank 0 alone writes files and reports events."""
        return self.rank == 0

    def add_up(self, values: Tensor) -> Tensor:
        """``values`` summed over the processes, in place. All must call it with the same shape."""
        if self.size > 1 and values.numel():
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is true in some process. Does not wait for the device."""
        if self.size == 1:
            return flag
        return bool(self.add_up(torch.tensor([flag], dtype=torch.int32)))

    def broadcast(self, value: T) -> T:
        """Rank 0's value."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def main_first(self, work: Callable[[], T]) -> T:
        """``work()`` of every process, rank 0's before the others': they find what it has left on the disk."""
        if self.size == 1:
            return work()
        if self.is_main:
            found = work()
        self.any(False)
        return found if self.is_main else work()

    def seed(self, *parts: int) -> int:
        """For random numbers that differ between processes."""
        return int(np.random.SeedSequence([*parts, self.rank]).generate_state(1, np.uint64)[0] >> 1)


ALONE = World()


def join_world() -> World:
    """The processes that torchrun's environment speaks of: gloo on a CPU; on CUDA nccl, and this process's device is set.

    Raises SpecError where there are fewer devices than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    backend = "gloo"
    if torch.cuda.is_available():
        local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= devices:
            raise SpecError(f"parallel: more processes than the {devices} CUDA devices here; start one for each device")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)
    return World(rank=dist.get_rank(), size=dist.get_world_size())


def leave_world(world: World) -> None:
    if world.size > 1:
        world.any(False)  # rank 0 may hold the store that the others still use
        dist.destroy_process_group()


def reduce_gradients(parameters: Sequence[torch.nn.Parameter], world: World) -> None:
    """Sum each parameter's gradient over the processes: one flat all-reduce in float32 (float64 for float64 models).

    A process without a gradient adds zero. The sum is right because the loss is divided by the whole step's rows.
    """
    if world.size == 1:
        return
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = world.add_up(torch.cat([grad.flatten() for grad in grads]))
    parts = torch.split(flat, [p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


class Failures:
    """How the first process that fails is heard of: through the store, for its peers may be stuck in a collective."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._over = threading.Event()
        self._store = _store() if world.size > 1 else None

    def tell(self, reason: Reason, message: str) -> bool:
        """Called by a process that fails; False where another was before it. Rank 0 then waits to be ended by ``watch``."""
        if self._store is None:
            return True
        try:
            is_first = self._store.add(COUNT, 1) == 1
            if self._world.is_main:
                self._over.wait(0 if is_first else ACKNOWLEDGE_SECONDS)
                return True
            if is_first:
                self._store.set(FAILURE, json.dumps([reason, message]))
                deadline = time.monotonic() + ACKNOWLEDGE_SECONDS
                while time.monotonic() < deadline and not self._store.check([TOLD]):
                    time.sleep(POLL_SECONDS)
        except RuntimeError:  # the store went with the process that held it
            return self._world.is_main
        return is_first

    def close(self) -> None:
        self._over.set()

    def watch(self, on_failure: Callable[[Reason, str], None]) -> None:
        """On rank 0: ``on_failure(reason, message)`` in a thread when another process failed; then this one ends."""
        if self._store is None or not self._world.is_main:
            return

        def wait() -> None:
            store = _store()
            while not self._over.wait(POLL_SECONDS):
                if store.check([FAILURE]):
                    reason, message = json.loads(store.get(FAILURE))
                    on_failure(reason, message)
                    store.set(TOLD, "1")
                    os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def _store() -> TCPStore:
    """A connection of its own to the store of the process group: the group's may be held by a wait."""
    from torch._C._distributed_c10d import TCPStore

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


def lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone."""
    text = str(error)
    return isinstance(error, dist.DistError) or "closed by peer" in text or "reset by peer" in text
