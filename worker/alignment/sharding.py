"""FSDP2: the frozen base's weights lie in pieces over the processes, and come together layer by layer while computing.

Only the base is sharded. Adapters stay whole in every process, in float32: they are small, their gradients are summed by
one flat all-reduce (``distributed.reduce_gradients``), and checkpoints are the files of a single process. So nothing is
reduced by FSDP, whose only work is to gather weights. That is a collective: every process must run the model equally
often, and one that has no rows left runs ``IDLE`` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from worker.alignment.dataset import Pair
from worker.alignment.errors import StopRequest
from worker.alignment.memory import decoder_layers

if TYPE_CHECKING:
    from worker.alignment.policy import Policy

T = TypeVar("T")
IDLE = Pair(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
"""What a process computes that has nothing to compute: one token, whose log-prob nobody uses."""


class Root(nn.Module):
    """Everything that is asked of the model is asked inside its ``forward``.

    FSDP gathers embeddings, last norm and head there, and a head that is called outside dies of mixed tensors. On a model
    that is not sharded it is a plain call.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()


def shard_base(root: Root, device: torch.device, size: int) -> None:
    """Shard the base over ``size`` processes; it may lie on the CPU before, and goes to ``device`` layer by layer."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = root.model
    adapters = {p for name, p in model.named_parameters() if model.base_model.prefix in name}
    for parameter in adapters:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (size,))
    for layer in decoder_layers(model.get_base_model()):
        fully_shard(layer, mesh=mesh, ignored_params=adapters)
    fully_shard(root, mesh=mesh, ignored_params=adapters)


def on_main(policy: Policy, work: Callable[[], T]) -> T | None:
    """What ``work`` returns on rank 0, None in the other processes, which wait for it.

    Where weights are sharded, rank 0 tells of each call of the model, and the others run it idly beside. A StopRequest that
    ends the work ends it everywhere.
    """
    world = policy.world
    if not world.is_main:
        while (word := world.broadcast("")) == "run":
            policy.idle(1)
        if word == "stop":
            raise StopRequest
        return None
    try:
        with _told(policy) if policy.sharded else nullcontext():
            found = work()
    except StopRequest:
        world.broadcast("stop")
        raise
    world.broadcast("done")
    return found


@contextmanager
def _told(policy: Policy) -> Iterator[None]:
    own = policy.model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        policy.world.broadcast("run")
        return policy.inside(lambda: own(*args, **kwargs))

    policy.model.forward = forward
    try:
        yield
    finally:
        del policy.model.forward
