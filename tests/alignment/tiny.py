"""Tiny random models, a byte-level tokenizer and snapshots, all made from seeds."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    Exaone4Config,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    GraniteConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3NextConfig,
    SmolLM3Config,
)

from worker.alignment.config import AlignmentConfig, EvaluationSettings, LoraSettings, TrainSpec

torch.set_num_threads(1)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = "the cat sat on a red mat and saw seven small birds near warm water under old green trees today".split()  # noqa: SIM905
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
LOCAL_GLOBAL = ["sliding_attention", "full_attention"]
CONFIGS: dict[str, Any] = {
    "llama": lambda v: LlamaConfig(vocab_size=v, tie_word_embeddings=True, **SIZES),
    "qwen3": lambda v: Qwen3Config(vocab_size=v, tie_word_embeddings=False, **SIZES),
    "mistral": lambda v: MistralConfig(vocab_size=v, sliding_window=16, **SIZES),
    "gemma2": lambda v: Gemma2Config(
        vocab_size=v,
        sliding_window=16,
        final_logit_softcapping=4.0,
        attn_logit_softcapping=3.0,
        query_pre_attn_scalar=8,
        **SIZES,
    ),
    "gemma3": lambda v: Gemma3TextConfig(vocab_size=v, sliding_window=16, query_pre_attn_scalar=8, **SIZES),
    "cohere2": lambda v: Cohere2Config(vocab_size=v, sliding_window=16, layer_types=LOCAL_GLOBAL, **SIZES),
    "exaone4": lambda v: Exaone4Config(vocab_size=v, sliding_window=16, layer_types=LOCAL_GLOBAL, **SIZES),
    "gpt_oss": lambda v: GptOssConfig(
        vocab_size=v,
        sliding_window=16,
        layer_types=LOCAL_GLOBAL,
        num_local_experts=2,
        num_experts_per_tok=1,
        **SIZES,
    ),
    "granite": lambda v: GraniteConfig(
        vocab_size=v,
        attention_multiplier=0.2,
        logits_scaling=3.0,
        residual_multiplier=0.7,
        embedding_multiplier=2.0,
        **SIZES,
    ),
    "phi": lambda v: PhiConfig(vocab_size=v, partial_rotary_factor=0.5, **SIZES),
    "phi3": lambda v: Phi3Config(vocab_size=v, sliding_window=16, **SIZES),
    "smollm3": lambda v: SmolLM3Config(vocab_size=v, no_rope_layers=[1, 0], **SIZES),
    "llama4": lambda v: _llama4(v, moe_layers=[]),
    "llama4_moe": lambda v: _llama4(v, moe_layers=[1], num_local_experts=2),
    "llama4_long": lambda v: _llama4(v, moe_layers=[], attn_temperature_tuning=True, floor_scale=8, attn_scale=0.5),
    "lfm2": lambda v: Lfm2Config(vocab_size=v, layer_types=["conv", "full_attention"], **SIZES),
    "qwen3_next": lambda v: Qwen3NextConfig(
        vocab_size=v,
        layer_types=["linear_attention", "full_attention"],
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=0,
        mlp_only_layers=[0, 1],
        **SIZES,
    ),
}


def _llama4(vocab_size: int, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "attention_chunk_size": 24,
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
        "attn_temperature_tuning": False,
        "intermediate_size_mlp": 48,
    }
    return Llama4TextConfig(vocab_size=vocab_size, **(SIZES | settings | changes))


@lru_cache(maxsize=1)
def tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<|im_end|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    return tokenizer.to_str()


def tokenizer(*, template: str | None = CHATML, eos: str | None = "<|im_end|>") -> Any:
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json()),
        eos_token=eos,
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    if template is not None:
        made.chat_template = template
    return made


def save_model(folder: Path, architecture: str = "llama", *, template: str | None = CHATML) -> Path:
    made = tokenizer(template=template)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture](len(made)), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # norms too: a zero or one would hide a missing factor
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def record(number: int, *, label: bool | None = None, words: int | None = None, **changes: Any) -> dict[str, Any]:
    chance = random.Random(number)
    prompt = " ".join(chance.choices(WORDS, k=chance.randint(3, 14))) + f" {number // 2}"
    answer = " ".join(chance.choices(WORDS, k=words or chance.randint(2, 24)))
    return {
        "id": 1000 + number,
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": answer}],
        "label": chance.random() < 0.6 if label is None else label,
        "category": ["colour", "size"][number % 2],
        "root": f"root-{number // 2}",
        "finish_reason": "stop",
    } | changes


def save_snapshot(folder: Path, *, train: int = 40, dev: int = 10, records: list[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    splits = {
        "train": records if records is not None else [record(n) for n in range(train)],
        "dev": [record(n) for n in range(5000, 5000 + dev)],
        "test": [record(n) for n in range(9000, 9004)],
    }
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    counts = {name: len(rows) for name, rows in splits.items()}
    (folder / "manifest.json").write_text(json.dumps({"hash": f"hash-{counts}", "counts": counts}), encoding="utf-8")
    return folder


def config(**changes: Any) -> AlignmentConfig:
    settings: dict[str, Any] = {
        "base_model": "tiny",
        "learning_rate": 5e-3,
        "batch_size": 8,
        "max_steps": 6,
        "max_length": 128,
        "tokens_per_microbatch": 300,
        "num_threads": 1,
        "lora": LoraSettings(r=4, alpha=8),
        "evaluation": EvaluationSettings(interval_steps=3, samples_per_prompt=2, max_new_tokens=8),
    }
    return AlignmentConfig(**(settings | changes))


def spec(folder: Path, *, attempt: int = 1, resume_from: Path | None = None, **changes: Any) -> TrainSpec:
    """A spec on ``folder``'s model and snapshot, which are made on first use."""
    if not (folder / "model").exists():
        save_model(folder / "model")
    if not (folder / "snapshot").exists():
        save_snapshot(folder / "snapshot")
    return TrainSpec(
        run_id=1,
        attempt=attempt,
        config=config(**changes),
        model_path=str(folder / "model"),
        snapshot_dir=str(folder / "snapshot"),
        attempt_dir=str(folder / f"attempt-{attempt}"),
        cache_dir=str(folder / "cache"),
        resume_from=str(resume_from) if resume_from else None,
    )


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
