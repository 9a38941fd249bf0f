"""A tiny random chat model with a LoRA adapter, and a word-level tokenizer for it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<pad>", "<end>", "<user>", "<bot>", "<unk>", *[f"w{i}" for i in range(59)]]
TEMPLATE = (
    "{% for m in messages %}{{ '<user> ' if m['role'] == 'user' else '<bot> ' }}{{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)


def tiny_tokenizer() -> Any:
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", unk_token="<unk>", chat_template=TEMPLATE
    )


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {
            "vocab_size": len(WORDS),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "bos_token_id": None,
            "initializer_range": 0.3,
        }
        return LlamaForCausalLM(LlamaConfig(**(sizes | changes))).to(dtype).eval()


def with_adapter(model: Any, scale: float, seed: int = 1) -> Any:
    """A rank-4 adapter on all linear layers whose B is drawn at ``scale`` (0: an adapter that does nothing)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with warnings.catch_warnings():  # peft reads a property that transformers has renamed
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=scale) if scale else torch.nn.init.zeros_(parameter)
    return adapted.eval()


def save_base(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    tiny_model(dtype=dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_tiny_encoder(folder: Path) -> None:
    """A BERT of one layer and 16 dimensions, with its tokenizer."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
