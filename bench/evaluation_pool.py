"""Samples of the demo model that ``bench.evaluation_statistics`` splits into arms: drawn once, kept in the user's cache.

500 categories are (task, topic) pairs of the demo's corpus, each asked in its 8 phrasings; 24 samples a prompt at
temperature 1 and up to 48 new tokens, from the base model that ``python -m worker.demo pretrain`` makes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worker.demo import corpus
from worker.demo.categories import CATEGORIES, Category
from worker.demo.pretrain import Recipe, pretrain

SAMPLES = 24
NUM_CATEGORIES = 500
WORD_LIMIT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    categories: list[str]
    """One name a prompt; 8 prompts each."""
    domains: list[str]
    texts: list[list[str]]
    """SAMPLES a prompt."""
    similarity_PSS: np.ndarray[Any, np.dtype[np.float32]]
    """ROUGE-L F1 between all samples of a prompt."""


def asked() -> list[tuple[str, str, str]]:
    """(domain, category, prompt) of NUM_CATEGORIES categories."""
    found: list[tuple[str, str, str]] = []
    for category in CATEGORIES:
        prompts = list(corpus.all_prompts(category))
        size = len(corpus.FRAMES)
        for start in range(0, len(prompts), size):
            found += [
                (category.name, f"{category.name}/{start // size}", text) for text in prompts[start : start + size]
            ]
    order = np.random.default_rng(0).permutation(len(found) // len(corpus.FRAMES))[:NUM_CATEGORIES]
    return [found[int(block) * len(corpus.FRAMES) + i] for block in sorted(order) for i in range(len(corpus.FRAMES))]


def load() -> Pool:
    """From the cache, or drawn now: some minutes of one core."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kto-studio" / "bench"
    recipe, cases = Recipe(), asked()
    told = json.dumps([asdict(recipe), cases, SAMPLES])
    kept = folder / f"pool-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    if not kept.with_suffix(".json").is_file():
        base = pretrain(folder / "demo-pool-base", recipe, num_threads=1)
        _write(kept.with_suffix(".json"), json.dumps(_draw(base, [text for *_, text in cases])))
    texts = json.loads(kept.with_suffix(".json").read_text(encoding="utf-8"))
    if not kept.with_suffix(".npy").is_file():
        np.save(kept.with_suffix(".npy"), similarities(texts).astype(np.float32))
    return Pool(
        categories=[category for _, category, _ in cases],
        domains=[domain for domain, *_ in cases],
        texts=texts,
        similarity_PSS=np.load(kept.with_suffix(".npy")),
    )


def of_templates(num_categories: int) -> Pool:
    """A small pool without a model: answers written by the corpus's own templates."""
    texts, kept = [], asked()[: 8 * num_categories]
    by_prompt = _topics()
    for number, (_, _, prompt) in enumerate(kept):
        rng = random.Random(number)
        category, topic = by_prompt[prompt]
        texts.append(
            [corpus.make_completion(rng, category, topic, desirable=rng.random() < 0.5) for _ in range(SAMPLES)]
        )
    return Pool(
        categories=[category for _, category, _ in kept],
        domains=[domain for domain, *_ in kept],
        texts=texts,
        similarity_PSS=similarities(texts).astype(np.float32),
    )


def _topics() -> dict[str, tuple[Category, int]]:
    """Category and topic of every prompt."""
    found = {}
    for category in CATEGORIES:
        each = len(category.tasks) * len(corpus.FRAMES)
        for number, text in enumerate(corpus.all_prompts(category)):
            found[text] = category, number // each
    return found


def similarities(texts: list[list[str]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[prompts, samples, samples]"""
    from worker.alignment.evaluation.texts import rouge_l, words

    found = np.ones((len(texts), len(texts[0]), len(texts[0])))
    for prompt, samples in enumerate(texts):
        cut = [words(text)[:WORD_LIMIT] for text in samples]
        for i in range(len(cut)):
            for j in range(i):
                found[prompt, i, j] = found[prompt, j, i] = rouge_l(cut[i], cut[j])
    return found


def _draw(base: Path, prompts: list[str]) -> list[list[str]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from worker.alignment.generate import Sampling, generate
    from worker.demo.feedback import encode_prompt

    torch.set_num_threads(1)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    ids = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in prompts]
    sampling = Sampling(samples_per_prompt=SAMPLES, max_new_tokens=48, temperature=1.0, seed=0)
    return [[sample.text for sample in samples] for samples in generate(model, tokenizer, ids, sampling)]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
