"""Sizes of a model, from its config.json, and of the data that a run trains on: free of torch.

The kinds of model whose parameters are counted here were compared with real ones (tests/alignment/test_shapes.py); of
another kind nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

DeviceKind = Literal["cpu", "cuda"]
PLAIN = {
    "llama", "mistral", "qwen2", "qwen3", "gemma", "granite", "smollm3", "olmo2", "stablelm", "exaone4", "ernie4_5", "seed_oss",
}  # fmt: skip
FOUR_NORMS = {"gemma2", "gemma3", "gemma3_text"}
ONE_NORM = {"cohere", "cohere2", "phi"}
"""Attention and MLP read the same norm."""
UNGATED = {"gpt_neox", "phi", "starcoder2", "nemotron"}
FUSED = {"phi3", "gpt_neox"}
"""One matrix for queries, keys and values, and one for gate and up: each has one adapter."""
BIASED = {"gpt_neox", "phi", "starcoder2"}
"""Every linear layer and norm."""
BARE_EXPERTS = {"gpt_oss", "granitemoe", "phimoe"}
"""Experts without adapters."""
ADAPTED_EXPERTS = {"mixtral", "qwen3_moe", "olmoe"}
"""peft's all-linear reaches their experts and router."""
SHARED_EXPERT = {"llama4", "llama4_text"}
"""Some layers have experts, one of which every token passes; the others one wider MLP."""
EXPERTS = BARE_EXPERTS | ADAPTED_EXPERTS | SHARED_EXPERT
KNOWN = PLAIN | FOUR_NORMS | ONE_NORM | UNGATED | FUSED | EXPERTS
TIED = {"gemma", "gemma2", "gemma3", "gemma3_text", "cohere", "cohere2", "starcoder2", "smollm3"}
"""Embedding and head are one where config.json does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSize:
    """Of the rows that a run trains on."""

    num_rows: int
    num_tokens: int
    """Prompt and completion together."""
    num_completion_tokens: int
    longest_row: int
    """Tokens."""
    num_step_tokens: int = 0
    """Of the heaviest step; 0: not known, a step of mean rows then."""

    @classmethod
    def from_lengths(cls, prompts: Sequence[int], completions: Sequence[int], *, num_step_tokens: int) -> DataSize:
        """From tokenised rows."""
        rows = [p + c for p, c in zip(prompts, completions, strict=True)]
        return cls(
            num_rows=len(rows),
            num_tokens=sum(rows),
            num_completion_tokens=sum(completions),
            longest_row=max(rows, default=0),
            num_step_tokens=num_step_tokens,
        )

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
    num_layers: int

    @property
    def num_parameters(self) -> int:
        return self.num_body_parameters + self.num_embedding_parameters


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a decoder that matter here, from its config.json."""

    family: str
    hidden: int
    layers: int
    vocab: int
    query: int
    key_value: int
    intermediate: int
    """Width of an expert where there are any."""
    gated: bool
    experts: int
    experts_used: int
    """By one token, a shared one included."""
    expert_layers: int
    """Layers with experts; the others have one MLP of ``dense_intermediate``."""
    dense_intermediate: int
    tied: bool
    heads: int
    norms: int
    """Norms of the residual stream in a layer."""
    normed_heads: bool
    """Queries and keys pass a norm of their own."""
    attention_bias: bool
    softcap: bool
    """Attention scores are capped, which is computed explicitly: they are kept."""

    @classmethod
    def read(cls, config: dict[str, Any]) -> Shape:
        """Raises ValueError for a kind of model that is not known here."""
        text = config.get("text_config") or config
        family = str(text.get("model_type") or config.get("model_type", ""))
        if family not in KNOWN:
            raise ValueError(f"{family or 'a model without model_type'} is not a kind of model this estimate knows")
        try:
            hidden, layers, heads, vocab = (
                int(text[name]) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
            )
        except KeyError as error:
            raise ValueError(f"config.json has no {error.args[0]}: not a decoder this estimate knows") from error
        head_dim = int(text.get("head_dim") or hidden // heads)
        experts = int(text.get("num_local_experts") or text.get("num_experts") or 1) if family in EXPERTS else 1
        width = int(text.get("intermediate_size") or 4 * hidden)
        shared = family in SHARED_EXPERT
        return cls(
            family=family,
            hidden=hidden,
            layers=layers,
            vocab=vocab,
            query=heads * head_dim,
            key_value=int(text.get("num_key_value_heads") or heads) * head_dim,
            intermediate=int((text.get("moe_intermediate_size") if experts > 1 else None) or width),
            gated=family not in UNGATED,
            experts=experts,
            experts_used=int(text.get("num_experts_per_tok") or 1) + shared if experts > 1 else 1,
            expert_layers=_expert_layers(text, layers) if shared else layers if experts > 1 else 0,
            dense_intermediate=int(text.get("intermediate_size_mlp") or width) if shared else width,
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", family in TIED))),
            heads=heads,
            norms=4 if family in FOUR_NORMS else 1 if family in ONE_NORM else 2,
            normed_heads=family.startswith(("qwen3", "gemma3", "olmo2", "exaone4")),
            attention_bias=family in BIASED or bool(text.get("attention_bias")),
            softcap=bool(text.get("attn_logit_softcapping")),
        )


def _expert_layers(text: dict[str, Any], layers: int) -> int:
    named = text.get("moe_layers")
    step = int(text.get("interleave_moe_layer_step") or 1)
    return layers // step if named is None else len(named)


def model_size(config: dict[str, Any], *, rank: int) -> ModelSize:
    """Parameters counted from a Hugging Face config.json. Raises ValueError where it is of no known kind.

    LoRA on all linear layers.
    """
    shape = Shape.read(config)
    biased = shape.family in BIASED
    norm = shape.hidden * (2 if biased else 1)
    expert = _mlp(shape, shape.intermediate)
    router = (shape.hidden + (shape.family == "gpt_oss")) * shape.experts
    shared = shape.family in SHARED_EXPERT
    attention = shape.hidden * (2 * shape.query + 2 * shape.key_value)
    attention += (shape.query + 2 * shape.key_value + shape.hidden) * shape.attention_bias
    dense = (shape.layers - shape.expert_layers) * _mlp(shape, shape.dense_intermediate)
    outside = shape.layers * (attention + shape.norms * norm) + dense + shape.expert_layers * router + norm
    return ModelSize(
        num_body_parameters=outside + shape.expert_layers * (shape.experts + shared) * expert,
        num_active_parameters=outside + shape.expert_layers * shape.experts_used * expert,
        num_embedding_parameters=shape.vocab * (shape.hidden * (1 if shape.tied else 2) + (shape.family == "phi")),
        num_lora_parameters=rank * _lora_widths(shape),
        num_layers=shape.layers,
    )


def _mlp(shape: Shape, width: int) -> int:
    """Parameters of one MLP or expert."""
    biases = shape.hidden + (2 if shape.gated else 1) * width
    return (3 if shape.gated else 2) * shape.hidden * width + biases * (shape.family in BIASED | {"gpt_oss"})


def _lora_widths(shape: Shape) -> int:
    """Inputs and outputs of all adapted matrices: a rank's parameters."""
    fused = shape.family in FUSED
    attention = (2 if fused else 4) * shape.hidden + 2 * shape.query + 2 * shape.key_value

    def mlp(width: int) -> int:
        return (3 - (not shape.gated) - (fused and shape.gated)) * shape.hidden + (3 if shape.gated else 2) * width

    experts = 0
    if shape.family in SHARED_EXPERT:
        experts = mlp(shape.intermediate)
    elif shape.family in ADAPTED_EXPERTS:  # gate and up are one tensor with adapters of twice the rank
        each = 2 * (shape.hidden + 2 * shape.intermediate) + shape.intermediate + shape.hidden
        experts = shape.experts * each + shape.hidden + shape.experts
    dense = shape.layers - shape.expert_layers
    return shape.layers * attention + dense * mlp(shape.dense_intermediate) + shape.expert_layers * experts
