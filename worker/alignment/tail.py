"""The last decoder layer where it matters: at the positions that the head reads.

Of the last layer the prompt's positions only give keys and values; their queries, their way through the MLP and the backward
of both lead nowhere. That is one layer's share of the prompts' work, saved exactly. It is done for layers whose code is
Llama's, with the attention of Llama, Mistral, Qwen2 or Qwen3; all others compute every position.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from worker.alignment.attention import Layout, packed_attention
from worker.alignment.fused import same_code
from worker.alignment.memory import decoder_layers

KNOWN = (LlamaAttention, MistralAttention, Qwen2Attention, Qwen3Attention)


def install(lm: Any) -> bool:
    """Let the last decoder layer follow ``Layout.tail``; False where its code is not known."""
    layer = decoder_layers(lm)[-1]
    attention = getattr(layer, "self_attn", None)
    if not same_code(type(layer), LlamaDecoderLayer) or not any(same_code(type(attention), known) for known in KNOWN):
        return False
    layer.forward = _LastLayer(layer, attention)
    return True


class _LastLayer:
    """Stands in for the layer's bound ``forward``."""

    def __init__(self, layer: Any, attention: Any) -> None:
        self._layer = layer
        self._attention = attention
        self._plain: Callable[..., Any] = layer.forward
        of_mistral = same_code(type(attention), MistralAttention)  # asks its config, where others have their own
        self._window = getattr(attention.config if of_mistral else attention, "sliding_window", None)
        self._rotate = inspect.unwrap(type(attention).forward).__globals__["apply_rotary_pos_emb"]

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        layout: Layout | None = kwargs.get("kto_layout")
        if layout is None or layout.tail is None or args:
            return self._plain(hidden_states, *args, **kwargs)
        layer, rows = self._layer, layout.tail_rows
        mixed = self._attend(layer.input_layernorm(hidden_states), kwargs["position_embeddings"], rows, layout.tail)
        hidden = hidden_states.index_select(1, rows) + mixed
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def _attend(self, normed: Tensor, positions: tuple[Tensor, Tensor], rows: Tensor, tail: Layout) -> Tensor:
        """Attention of the rows to all: [1, T, H] -> [1, n, H]."""
        own = self._attention
        chosen = normed.index_select(1, rows)
        query, key, value = own.q_proj(chosen), own.k_proj(normed), own.v_proj(normed)
        query, key, value = (x.view(*x.shape[:-1], -1, own.head_dim) for x in (query, key, value))
        if hasattr(own, "q_norm"):
            query, key = own.q_norm(query), own.k_norm(key)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        cos, sin = positions
        # The rotary function turns queries and keys of one length: each gets one head of the other as company.
        query, _ = self._rotate(query, query[:, :1], cos.index_select(1, rows), sin.index_select(1, rows))
        _, key = self._rotate(key[:, :1], key, cos, sin)
        mixed, _ = packed_attention(
            own, query, key, value, None, kto_layout=tail, scaling=own.scaling, sliding_window=self._window
        )
        out: Tensor = own.o_proj(mixed.reshape(1, len(rows), -1))
        return out
