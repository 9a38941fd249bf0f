"""Sizes of a model, from its config.json, and of the data that a run trains on: free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

DeviceKind = Literal["cpu", "cuda"]


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
    def from_lengths(cls, prompts: Sequence[int], completions: Sequence[int], *, rows_per_step: int) -> DataSize:
        """From tokenised rows; the heaviest step is taken to hold the longest rows."""
        rows = sorted((p + c for p, c in zip(prompts, completions, strict=True)), reverse=True)
        return cls(
            num_rows=len(rows),
            num_tokens=sum(rows),
            num_completion_tokens=sum(completions),
            longest_row=max(rows, default=0),
            num_step_tokens=sum(rows[:rows_per_step]),
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
    heads: int
    norms: int
    """Norms of the residual stream in a layer."""
    normed_heads: bool
    """Queries and keys pass a norm of their own."""
    softcap: bool
    """Attention scores are capped, which is computed explicitly: they are kept."""

    @classmethod
    def read(cls, config: dict[str, Any]) -> Shape:
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
        family = str(text.get("model_type", ""))
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
            heads=heads,
            norms=4 if family.startswith(("gemma2", "gemma3")) else 2,
            normed_heads=family.startswith(("qwen3", "gemma3", "olmo2")),
            softcap=bool(text.get("attn_logit_softcapping")),
        )


def model_size(config: dict[str, Any], *, rank: int) -> ModelSize:
    """Parameters counted from a Hugging Face config.json. Raises ValueError where it names no decoder's shape."""
    shape = Shape.read(config)
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
        num_layers=shape.layers,
    )
