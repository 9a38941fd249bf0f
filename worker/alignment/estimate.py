"""Memory and time of a run before it starts, from the model's config.json and the data's token counts: free of torch.

An estimate, not a promise: memory is worked out from shapes (the activations by a count of what a decoder layer keeps
for backward) and is good to about a quarter; time is floating-point work over a range of rates and says the order of
magnitude. The launch page shows both as estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from worker.alignment.config import AlignmentConfig

DeviceKind = Literal["cpu", "cuda"]

RATES: dict[DeviceKind, tuple[float, float]] = {"cpu": (8e9, 50e9), "cuda": (40e12, 400e12)}
"""Floating-point operations per second, slow to fast: per core in float32, per GPU in bfloat16."""
PROCESS_BYTES: dict[DeviceKind, int] = {"cpu": 600 << 20, "cuda": 1 << 30}
"""What importing the libraries (CPU) or the CUDA context and kernels' workspaces take."""
HEAD_CHUNK_BYTES: dict[DeviceKind, int] = {"cpu": 64 << 20, "cuda": 1 << 30}
"""One chunk of float32 logits in the frozen head; three are alive at once: logits, probabilities, a temporary."""
SLACK = 1.3
"""Measured on CPU over counted activations: temporaries of the backward pass and what the allocator holds back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSize:
    """Of the rows that a run trains on."""

    num_rows: int
    num_tokens: int
    """Prompt and completion together."""
    num_completion_tokens: int
    longest_row: int
    """Tokens."""

    @classmethod
    def from_characters(cls, *, num_rows: int, characters: int, completion_characters: int, longest: int) -> DataSize:
        """Where nothing was tokenised yet: about 3.5 characters a token, a dozen tokens of template a row."""
        per_token, template = 3.5, 12
        return cls(
            num_rows=num_rows,
            num_tokens=round(characters / per_token) + template * num_rows,
            num_completion_tokens=round(completion_characters / per_token) + num_rows,
            longest_row=round(longest / per_token) + template,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    num_body_parameters: int
    """All but embedding and head: what every token passes through (of experts, those in use are counted apart)."""
    num_active_parameters: int
    """The body's share that one token uses: less than the body in mixture-of-experts models."""
    num_embedding_parameters: int
    """Embedding and, where it is not tied, head."""
    num_lora_parameters: int

    @property
    def num_parameters(self) -> int:
        return self.num_body_parameters + self.num_embedding_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEstimate:
    weights_bytes: int
    adapter_bytes: int
    """Adapters in float32 with gradients and AdamW's two moments."""
    activation_bytes: int
    """Kept for backward by one microbatch."""
    head_bytes: int
    """Chunks of logits, and the head's gradient vectors for the microbatch."""
    overhead_bytes: int
    seconds_low: float
    seconds_high: float
    """Training and reference log-probs, without evaluations."""
    total_steps: int
    model: ModelSize

    @property
    def total_bytes(self) -> int:
        parts = (self.weights_bytes, self.adapter_bytes, self.activation_bytes, self.head_bytes, self.overhead_bytes)
        return sum(parts)


@dataclass(frozen=True, slots=True)
class _Shape:
    """The numbers of a decoder that matter here."""

    hidden: int
    layers: int
    vocab: int
    query: int
    key_value: int
    intermediate: int
    gated: bool
    experts: int
    experts_used: int
    tied: bool

    @classmethod
    def read(cls, config: dict[str, Any]) -> _Shape:
        text = config.get("text_config") or config
        try:
            hidden = int(text.get("hidden_size") or text["n_embd"])
            layers = int(text.get("num_hidden_layers") or text["n_layer"])
            heads = int(text.get("num_attention_heads") or text["n_head"])
            vocab = int(text["vocab_size"])
        except KeyError as error:
            raise ValueError(f"config.json has no {error.args[0]}: not a decoder this estimate knows") from error
        head_dim = int(text.get("head_dim") or hidden // heads)
        experts = int(text.get("num_local_experts") or text.get("num_experts") or 1)
        width = text.get("moe_intermediate_size") if experts > 1 else None
        return cls(
            hidden=hidden,
            layers=layers,
            vocab=vocab,
            query=heads * head_dim,
            key_value=int(text.get("num_key_value_heads") or heads) * head_dim,
            intermediate=int(width or text.get("intermediate_size") or text.get("n_inner") or 4 * hidden),
            gated=text.get("model_type") not in {"gpt2", "gpt_neox", "phi", "opt", "bloom"},
            experts=experts,
            experts_used=int(text.get("num_experts_per_tok") or 1) if experts > 1 else 1,
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        )


def model_size(config: dict[str, Any], *, rank: int) -> ModelSize:
    """Parameters counted from a Hugging Face config.json. Raises ValueError where it names no decoder's shape."""
    shape = _Shape.read(config)
    attention = shape.hidden * (2 * shape.query + 2 * shape.key_value)
    matrices = 3 if shape.gated else 2
    expert = matrices * shape.hidden * shape.intermediate
    router = shape.hidden * shape.experts if shape.experts > 1 else 0
    norms = 2 * shape.hidden
    outside = attention + router + norms
    lora = 4 * shape.hidden + 2 * shape.query + 2 * shape.key_value  # inputs and outputs of q, k, v, o
    if shape.experts == 1:  # peft's all-linear leaves fused experts alone
        lora += matrices * (shape.hidden + shape.intermediate)
    return ModelSize(
        num_body_parameters=shape.layers * (outside + shape.experts * expert) + shape.hidden,
        num_active_parameters=shape.layers * (outside + shape.experts_used * expert) + shape.hidden,
        num_embedding_parameters=shape.vocab * shape.hidden * (1 if shape.tied else 2),
        num_lora_parameters=shape.layers * rank * lora,
    )


def estimate_run(
    model_config: dict[str, Any], config: AlignmentConfig, data: DataSize, *, device: DeviceKind, num_cores: int = 1
) -> RunEstimate:
    """Peak memory by parts and a range of seconds, for one device. Raises ValueError on an unknown kind of model."""
    shape = _Shape.read(model_config)
    size = model_size(model_config, rank=config.lora.r)
    half = config.precision == "bfloat16" or (config.precision == "auto" and device == "cuda")
    width = 2 if half else 4
    longest = min(data.longest_row, config.max_length)
    tokens_per_step = data.num_tokens * config.batch_size // max(1, data.num_rows)
    tokens = max(longest, min(config.tokens_per_microbatch, tokens_per_step))
    completions = max(64, round(tokens * data.num_completion_tokens / max(1, data.num_tokens)))
    steps = config.max_steps or max(1, math.ceil(config.num_epochs * math.ceil(data.num_rows / config.batch_size)))
    work = _flops(size, shape, data, steps=steps, batch_size=config.batch_size)
    low, high = RATES[device]
    scale = max(1, num_cores) if device == "cpu" else 1
    return RunEstimate(
        weights_bytes=size.num_parameters * width,
        adapter_bytes=size.num_lora_parameters * 16,
        activation_bytes=round(SLACK * tokens * shape.layers * _kept_per_token(shape, width, config.lora.r)),
        head_bytes=3 * min(HEAD_CHUNK_BYTES[device], completions * shape.vocab * 4)
        + 2 * completions * shape.hidden * width,
        overhead_bytes=PROCESS_BYTES[device],
        seconds_low=work / (high * scale),
        seconds_high=work / (low * scale),
        total_steps=steps,
        model=size,
    )


def _kept_per_token(shape: _Shape, width: int, rank: int) -> int:
    """Bytes that one layer keeps for backward per token: inputs of norms and matrices, attention's tensors, LoRA's."""
    residual = (
        6 * shape.hidden
    )  # two norms keep their input and its float32 copy's normalised value, and give an output
    attention = 3 * shape.query + 2 * shape.key_value * 2
    mlp = (4 if shape.gated else 2) * shape.intermediate * shape.experts_used
    lora = 7 * rank
    float32_copies = (3 * shape.hidden + shape.query + shape.intermediate) * 4 if width == 2 else 0  # adapters' inputs
    return (residual + attention + mlp + lora) * width + float32_copies


def _flops(size: ModelSize, shape: _Shape, data: DataSize, *, steps: int, batch_size: int) -> float:
    """Policy forward, its input gradient and the KL forward each step; two reference forwards once per row."""
    rows = max(1, data.num_rows)
    tokens, completions = data.num_tokens / rows, data.num_completion_tokens / rows
    body, head = 2 * size.num_active_parameters, 2 * shape.hidden * shape.vocab
    per_row = 3 * body * tokens + 3 * head * completions
    reference = 2 * (body * tokens + head * completions) * rows
    return steps * min(batch_size, rows) * per_row + reference
