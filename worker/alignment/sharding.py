"""FSDP2: the frozen base's weights lie in pieces over the processes, and come together layer by layer while computing.

Only the base is sharded. Adapters stay whole in every process, in float32: they are small, their gradients are summed by
one flat all-reduce (``distributed.reduce_gradients``), and checkpoints are the files of a single process. So nothing is
reduced by FSDP, whose only work is to gather weights. That is a collective: every process must run the model equally
often, and one that has no rows left runs ``IDLE`` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from worker.alignment.dataset import Pair
from worker.alignment.memory import decoder_layers

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
    model = root.model
    adapters = {p for name, p in model.named_parameters() if model.base_model.prefix in name}
    for parameter in adapters:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (size,))
    for layer in decoder_layers(model.get_base_model()):
        fully_shard(layer, mesh=mesh, ignored_params=adapters)
    fully_shard(root, mesh=mesh, ignored_params=adapters)
