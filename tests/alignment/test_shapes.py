"""Parameters counted from config.json against those of the model itself, built without memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.alignment import tiny
from worker.alignment.adapters import add_adapters
from worker.alignment.config import LoraSettings
from worker.alignment.shapes import KNOWN, model_size

pytestmark = [  # peft's own
    pytest.mark.filterwarnings("ignore:target_parameters=:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning"),
]
SIZES = {key: value for key, value in tiny.SIZES.items() if key != "head_dim"} | {"vocab_size": 300}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
CHANGES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"moe_intermediate_size": 24},
    "llama4_text": {"intermediate_size_mlp": 80, "interleave_moe_layer_step": 2},
    "gpt_neox": {"num_key_value_heads": None},  # it has none
}
COMPOSED = {"gemma3", "llama4"}
"""Their config.json holds that of a text model and of an image model."""


@pytest.mark.parametrize("family", sorted(KNOWN - COMPOSED))
def test_counts_match_the_real_model(family: str) -> None:
    experts = (
        EXPERTS if family in {"gpt_oss", "granitemoe", "phimoe", "mixtral", "qwen3_moe", "olmoe", "llama4_text"} else {}
    )
    config = AutoConfig.for_model(family, **(SIZES | experts | CHANGES.get(family, {})))
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config)
    total = sum(parameter.numel() for parameter in base.parameters())
    model = add_adapters(base, LoraSettings(r=4, alpha=8), seed=0, base_model="", empty=True)
    size = model_size(json.loads(config.to_json_string()), rank=4)  # as a file: what is not its class's default
    assert size.num_parameters == pytest.approx(total, rel=0.01)  # norms of heads and some biases are left out
    assert size.num_lora_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", ["lfm2", "qwen3_next"])
def test_of_other_kinds_nothing_is_said(family: str) -> None:
    with pytest.raises(ValueError, match=f"{family} is not a kind of model this estimate knows"):
        model_size(tiny.CONFIGS[family](300).to_dict(), rank=4)


def test_a_text_model_inside_another_is_found() -> None:
    text = AutoConfig.for_model("llama4_text", **SIZES, **EXPERTS).to_dict()
    assert model_size({"model_type": "llama4", "text_config": text}, rank=4) == model_size(text, rank=4)


def test_llama_4_comes_out_right() -> None:
    """Scout: 109 billion with its image model's 1 billion, of which 17 billion see a token."""
    scout = {
        "model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048,
        "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "tie_word_embeddings": False,
    }  # fmt: skip
    size = model_size(scout, rank=16)
    assert size.num_parameters == pytest.approx(107.8e9, rel=0.005)
    assert size.num_active_parameters + size.num_embedding_parameters == pytest.approx(17.2e9, rel=0.01)
