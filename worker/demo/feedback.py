"""Feedback for the demo: completions sampled from the demo model itself, thumbs from simulated raters."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from worker.alignment.generate import Sampling, generate
from worker.demo.corpus import prompts, style_of

RATERS = ("Ada", "Ben", "Chloe", "Dilan", "Emma", "Farid", "Grace", "Hugo")
MODEL_NAME = "demo-base"
SAMPLES_PER_PROMPT = 2
NOISE = 0.05
"""Share of thumbs that go the wrong way, as some people's do."""

Report = Callable[[str], None]


def write_feedback(out: Path, model_dir: Path, *, seed: int, num: int, report: Report = print) -> int:
    """Write ``num`` import lines to ``out``, whole or not at all; returns how many were written."""
    rows = make_feedback(model_dir, seed=seed, num=num, report=report)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        fresh.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)
    return len(rows)


def make_feedback(model_dir: Path, *, seed: int, num: int, report: Report = print) -> list[dict[str, Any]]:
    """``num`` rated completions in the import format, two to a prompt; different completions of a prompt only."""
    asked = prompts(seed, -(-num // SAMPLES_PER_PROMPT) + num // 20)
    samples = _answer(model_dir, [text for _, text in asked], seed=seed, report=report)
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for (category, prompt), texts in zip(asked, samples, strict=True):
        for text in dict.fromkeys(texts):
            if text and len(rows) < num:
                rows.append(_rated(rng, category, prompt, text))
    return rows


def _rated(rng: random.Random, category: str, prompt: str, text: str) -> dict[str, Any]:
    style = style_of(text)
    label = rng.random() < 0.5 if style is None else style != (rng.random() < NOISE)
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": text,
        "label": label,
        "category": category,
        "model": MODEL_NAME,
        "rater": rng.choice(RATERS),
        "metadata": production_metadata(rng),
    }


def production_metadata(rng: random.Random) -> dict[str, Any]:
    """What an application would send along with a thumb."""
    return {
        "application": "demo-assistant",
        "channel": rng.choice(("web", "web", "mobile", "api")),
        "locale": rng.choice(("en-GB", "en-US", "en-IE")),
        "latency_ms": rng.randrange(120, 900),
    }


def _answer(model_dir: Path, texts: list[str], *, seed: int, report: Report) -> list[list[str]]:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    ids = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in texts]
    sampling = Sampling(samples_per_prompt=SAMPLES_PER_PROMPT, max_new_tokens=64, temperature=0.7, seed=seed)
    found = generate(
        model,
        tokenizer,
        ids,
        sampling,
        on_progress=lambda done, total: report(f"sampling {100 * done // total:3d} %  prompt {done}/{total}"),
    )
    return [[sample.text for sample in samples] for samples in found]


def encode_prompt(tokenizer: Any, messages: list[dict[str, Any]]) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids
