"""Peak memory of a training step by parts, each a formula in the shapes of model and microbatch: free of torch.

Checked against measured peaks, within 15 % (tests/alignment/test_memory_peak.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worker.alignment.config import AlignmentConfig
from worker.alignment.shapes import DataSize, DeviceKind, ModelSize, Shape, model_size

PROCESS_BYTES: dict[DeviceKind, int] = {"cpu": 400 << 20, "cuda": 1 << 30}
"""What importing the libraries (CPU) or the CUDA context and kernels' workspaces take."""
HEAD_TILE: dict[DeviceKind, tuple[int, int]] = {"cpu": (512, 2048), "cuda": (8192, 16384)}
"""Positions and vocabulary entries that the frozen head scores at once (logps.py)."""
HELD_BACK = 1.45
"""Measured on CPU: what glibc's allocator takes over what is alive, in holes between large blocks of several sizes (1.43 to
1.48 on five shapes). Where layers are recomputed it is told to hold nothing back (memory.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryParts:
    """Bytes at the peak of a step."""

    weights_bytes: int
    adapter_bytes: int
    """Adapters in float32 with gradients and AdamW's two moments."""
    activation_bytes: int
    """Kept for backward by one microbatch."""
    head_bytes: int
    """The head's gradient vectors for the microbatch."""
    kl_bytes: int
    """Keys and values that the KL pass shares with recomputed layers, which would not keep them."""
    transient_bytes: int
    """The largest of what comes and goes: tiles of logits, a layer of the KL pass, a layer's backward."""
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(
            (
                self.weights_bytes,
                self.adapter_bytes,
                self.activation_bytes,
                self.head_bytes,
                self.kl_bytes,
                self.transient_bytes,
                self.overhead_bytes,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Everything that a step's memory depends on but the number of recomputed layers."""

    model_config: dict[str, Any]
    """The base model's config.json."""
    config: AlignmentConfig
    data: DataSize
    device: DeviceKind
    activation_scale: float = 1.0
    """Measured over predicted, from a step that was run."""
    overhead_bytes: int | None = None
    """None: PROCESS_BYTES."""
    shards: int = 1
    """Processes that the base's weights are spread over."""


def fitting_layers(work: Workload, limit_bytes: int | None, *, at_least: int = 0) -> int | None:
    """The least number of layers to recompute so that the peak stays within the limit; None where none is enough.

    A config that names its checkpointing leaves only those: ``none`` 0, ``full`` all, ``selective`` any between.
    """
    num_layers = Shape.read(work.model_config).layers
    choices = {"none": [0], "full": [num_layers], "selective": list(range(1, num_layers)) or [num_layers]}
    for layers in choices.get(work.config.checkpointing, list(range(at_least, num_layers + 1))):
        if limit_bytes is None or memory_parts(work, layers).total_bytes <= limit_bytes:
            return layers
    return None


def memory_parts(work: Workload, num_recomputed_layers: int) -> MemoryParts:
    """The peak of the heaviest step by parts. Raises ValueError on an unknown kind of model."""
    config, data, device = work.config, work.data, work.device
    shape = Shape.read(work.model_config)
    size = model_size(work.model_config, rank=config.lora.r)
    width = element_width(config, device)
    tokens, step_tokens = microbatch_tokens(config, data)
    completions = max(1, round(tokens * data.num_completion_tokens / max(1, data.num_tokens)))
    shares_keys = config.objective == "kto" and (tokens >= step_tokens or config.kl_scope == "microbatch")
    kept = shape.layers - num_recomputed_layers
    layer_bytes = tokens * kept_per_token(shape, config, device, longest=min(data.longest_row, config.max_length))
    boundary_bytes = tokens * shape.hidden * width
    activations = max(kept, 1) * layer_bytes + (num_recomputed_layers + 2) * boundary_bytes
    tile = min(completions, HEAD_TILE[device][0]) * min(shape.vocab, HEAD_TILE[device][1]) * 4
    temporary = max(
        3 * tile + 3 * completions * shape.hidden * 4,
        completions * forward_per_token(shape, width, config.lora.r) if shares_keys else 0,
        tokens * backward_per_token(shape, width),
    )
    holes = HELD_BACK if device == "cpu" and not num_recomputed_layers else 1.0
    keys = 2 * shape.key_value * width * tokens * num_recomputed_layers if shares_keys else 0
    return MemoryParts(
        weights_bytes=sharded_bytes(size, width, work.shards, shape.layers)
        if work.shards > 1
        else weights_bytes(size, config, width),
        adapter_bytes=size.num_lora_parameters * 16,
        activation_bytes=round(work.activation_scale * holes * activations),
        head_bytes=2 * completions * shape.hidden * width,
        kl_bytes=keys,
        transient_bytes=round(holes * temporary),
        overhead_bytes=PROCESS_BYTES[device] if work.overhead_bytes is None else work.overhead_bytes,
    )


def element_width(config: AlignmentConfig, device: DeviceKind) -> int:
    """Bytes of one element of the base model's dtype."""
    return 2 if config.precision == "bfloat16" or (config.precision == "auto" and device == "cuda") else 4


def microbatch_tokens(config: AlignmentConfig, data: DataSize) -> tuple[int, int]:
    """Tokens of the heaviest forward pass and of the heaviest step; beginnings that rows share count as often as given."""
    longest = min(data.longest_row, config.max_length)
    rows = config.batch_size * (2 if config.objective == "dpo" else 1)
    step = data.num_step_tokens or data.num_tokens * rows // max(1, data.num_rows)
    step = max(longest, min(step, rows * config.max_length))
    return max(longest, min(config.tokens_per_microbatch, step)), step


def weights_bytes(size: ModelSize, config: AlignmentConfig, width: int) -> int:
    """NF4 keeps half a byte a parameter and a 32-bit scale for each 64 of the body's; embedding and head stay as they are."""
    if config.quantization == "4bit":
        return round(size.num_body_parameters * (0.5 + 4 / 64)) + size.num_embedding_parameters * width
    return size.num_parameters * width


def sharded_bytes(size: ModelSize, width: int, shards: int, layers: int) -> int:
    """A share of everything; whole are embeddings and head, the layer that computes, and the one that is fetched next."""
    whole = size.num_embedding_parameters + 2 * size.num_body_parameters // layers
    return (size.num_parameters // shards + whole) * width


def kept_per_token(shape: Shape, config: AlignmentConfig, device: DeviceKind, *, longest: int) -> int:
    """Bytes that one layer keeps for backward per token. ``longest``: tokens of a row, for scores that are kept.

    Counted from what autograd saves: the norms' inputs (in float32 at least), the matrices' inputs (one for all that read
    it), queries, keys, values and output of attention, the gate's two factors, the adapters' projections.
    """
    width = element_width(config, device)
    hidden, query, experts = shape.hidden, shape.query, shape.experts_used
    middle = shape.intermediate * experts
    norms = shape.norms * hidden + (query + shape.key_value if shape.normed_heads else 0)
    inputs = (2 * hidden + query + middle) * width
    fused = not (config.lora.dropout or config.lora.dora or config.quantization == "4bit")
    if not fused:  # each adapter has an input of its own
        elements = 5 * hidden + query + middle
        own = elements * 4 if config.lora.dropout or width == 2 else inputs
        inputs = own + (elements * (4 if device == "cpu" else 1) if config.lora.dropout else 0)  # and dropout's mask
        if config.lora.dora:  # outputs of the base and of the adapter, scaled by the magnitude
            inputs += 2 * (2 * hidden + query + 2 * shape.key_value + 2 * middle) * width
    outputs = query if device == "cuda" and fused else 2 * query  # one kernel: its output is the output matrix' input
    attention = (outputs + 2 * shape.key_value) * width + shape.heads * 4
    if shape.softcap:
        attention += 2 * shape.heads * longest * 4
    gate = (2 if shape.gated else 1) * middle * width
    return norms * max(4, width) + inputs + attention + gate + 7 * config.lora.r * width


def forward_per_token(shape: Shape, width: int, rank: int) -> int:
    """Bytes alive at once per token while a layer runs without gradient."""
    return (3 * shape.hidden + 3 * shape.intermediate * shape.experts_used + rank) * width


def backward_per_token(shape: Shape, width: int) -> int:
    """Bytes of gradients alive at once per token in a layer's backward."""
    return (2 * shape.hidden + 3 * shape.intermediate * shape.experts_used) * width
