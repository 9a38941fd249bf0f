"""Pre-trains the demo's base model from nothing: a byte-level BPE tokenizer and a small Llama on the demo's own corpus.

    python -m worker.demo pretrain --out DIR

The recipe (seeds, number of steps, sizes) fixes the result; on one kind of processor, with one number of threads and
one version of torch, the weights come out the same byte for byte. A folder that already holds the same recipe is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from worker.demo import corpus

PAD, END, SYSTEM, USER, ASSISTANT = SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """About 1.5M parameters with the default sizes."""

    vocab_size: int = 1536
    hidden_size: int = 160
    num_layers: int = 4
    num_heads: int = 5
    intermediate_size: int = 448
    context: int = 512
    num_chats: int = 24000
    num_steps: int = 360
    rows_per_step: int = 32
    learning_rate: float = 4e-3
    """Peak of AdamW, for the embeddings and norms."""
    matrix_learning_rate: float = 0.01
    """Peak of Muon, for the layers' matrices."""
    seed: int = 0
    version: int = 1
    """Raised when the code of the training changes what comes out."""


Report = Callable[[str], None]


def pretrain(
    out: Path, recipe: Recipe, *, texts: list[str] | None = None, num_threads: int = 2, report: Report = print
) -> Path:
    """Write the model in Hugging Face format to ``out``, whole or not at all; at once where it is there already.

    ``texts`` are rendered chats, by default those of the demo's corpus.
    """
    if texts is None:
        chats = corpus.chats(recipe.seed, recipe.num_chats)
        texts = [render(chat.prompt, chat.completion) for chat in chats]
    key = _recipe_hash(recipe, texts)
    if _is_cached(out, key):
        report(f"The base model is in {out} already.")
        return out
    torch.set_num_threads(num_threads)
    tokenizer = train_tokenizer(texts, recipe.vocab_size)
    batches = _batches(tokenizer, texts, recipe)
    model = _train(_build_model(recipe, tokenizer), batches, recipe, report)
    _save(out, model, tokenizer, {"hash": key, "recipe": asdict(recipe)})
    report(f"pre-training 100 %  saved to {out}")
    return out


def render(prompt: str, completion: str) -> str:
    """One chat as CHAT_TEMPLATE writes it."""
    return f"{USER}{prompt}{END}{ASSISTANT}{completion}{END}"


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # A part of the texts holds every word many times; merges from more of them come out the same.
    tokenizer.train_from_iterator(texts[:8000], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(config).float()
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def _batches(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], recipe: Recipe
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One (ids, labels) pair of shape [rows, tokens] a step; chats of like length, padded right; labels on answers only.

    Separate rows instead of packed ones: a model this small learns far faster when no other chat is in sight.
    """
    assistant, pad = tokenizer.convert_tokens_to_ids(ASSISTANT), int(tokenizer.pad_token_id or 0)
    encoded = [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(texts)]
    rng = random.Random(recipe.seed)
    batches: list[tuple[torch.Tensor, torch.Tensor]] = []
    while len(batches) < recipe.num_steps:
        window = sorted(rng.sample(encoded, min(len(encoded), recipe.rows_per_step * 32)), key=len)
        cuts = [window[i : i + recipe.rows_per_step] for i in range(0, len(window), recipe.rows_per_step)]
        rng.shuffle(cuts)
        for rows in cuts:
            ids = torch.full((len(rows), max(map(len, rows))), pad)
            labels = torch.full_like(ids, IGNORED)
            for i, row in enumerate(rows):
                begin = row.index(assistant) + 1
                ids[i, : len(row)] = torch.tensor(row)
                labels[i, begin : len(row)] = torch.tensor(row[begin:])
            batches.append((ids, labels))
    return batches[: recipe.num_steps]


def _train(
    model: LlamaForCausalLM, batches: list[tuple[torch.Tensor, torch.Tensor]], recipe: Recipe, report: Report
) -> LlamaForCausalLM:
    matrices = [p for p in model.model.layers.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    # Muon reaches in about half the steps what AdamW alone needs here; four Newton-Schulz steps are enough for it.
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.matrix_learning_rate, weight_decay=0.0, momentum=0.95, ns_steps=4),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    warmup = max(1, recipe.num_steps // 20)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _schedule(step, warmup, recipe.num_steps))
        for optimizer in optimizers
    ]
    started = time.monotonic()
    report_every = max(1, recipe.num_steps // 20)
    model.train()
    for step, (ids_BT, labels_BT) in enumerate(batches):
        hidden_BTH = model.model(ids_BT[:, :-1], use_cache=False).last_hidden_state
        target_BT = labels_BT[:, 1:]
        scored_BT = target_BT != IGNORED  # the head sees only the assistant's tokens
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden_BTH[scored_BT]), target_BT[scored_BT])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        if (step + 1) % report_every == 0:
            left = (time.monotonic() - started) / (step + 1) * (recipe.num_steps - step - 1)
            share = 100 * (step + 1) // recipe.num_steps
            report(
                f"pre-training {share:3d} %  step {step + 1}/{recipe.num_steps}  loss {loss.item():.3f}  {left:.0f} s left"
            )
    return model.eval()


def _schedule(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _recipe_hash(recipe: Recipe, texts: list[str]) -> str:
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    for text in (CHAT_TEMPLATE, *texts):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _is_cached(out: Path, key: str) -> bool:
    try:
        found = json.loads((out / "recipe.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("hash") == key


def _save(out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: dict[str, object]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.new")
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        (fresh / "recipe.json").write_text(json.dumps(recipe, indent=2))
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
