from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, Qwen3Config

from tests.evaluation_lib.support import WORDS, tiny_model, tiny_tokenizer, with_adapter
from worker.alignment.generate import Sample, Sampling, generate

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [20, 21], [30, 31, 32, 33]]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
    "initializer_range": 0.3,
}


def greedy_without_cache(model: Any, prompt: list[int], num: int) -> list[int]:
    ids = list(prompt)
    for _ in range(num):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == 1:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    "config",
    [
        None,
        Qwen3Config(**SIZES),
        MistralConfig(**SIZES, sliding_window=4),
        Gemma3TextConfig(**SIZES, sliding_window=4, layer_types=["sliding_attention", "full_attention"]),
    ],
    ids=["llama", "qwen3", "mistral", "gemma3"],
)
@torch.no_grad()
def test_a_greedy_batch_equals_one_prompt_at_a_time_without_cache(config: Any) -> None:
    torch.manual_seed(0)
    model = tiny_model() if config is None else AutoModelForCausalLM.from_config(config).eval()
    tokenizer = tiny_tokenizer()
    found = generate(model, tokenizer, PROMPTS, Sampling(samples_per_prompt=2, max_new_tokens=80, temperature=0))
    for prompt, samples in zip(PROMPTS, found, strict=True):
        ids = greedy_without_cache(model, prompt, 80)
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert [s.text for s in samples] == [text, text]
        assert [s.num_tokens for s in samples] == [len(ids)] * 2
        assert all(s.truncated == (ids[-1] != 1) for s in samples)


def test_samples_follow_the_models_probabilities() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    with torch.no_grad():
        probs = (model(torch.tensor([PROMPTS[0]])).logits[0, -1] / 0.7).softmax(-1)
    found = generate(
        model, tokenizer, [PROMPTS[0]], Sampling(samples_per_prompt=4000, max_new_tokens=1, temperature=0.7)
    )[0]
    counts = torch.zeros(len(WORDS))
    for sample in found:
        counts[WORDS.index(sample.text) if sample.text else 0] += 1
    words = torch.arange(5, len(WORDS))  # special tokens decode to nothing
    assert (counts[words] / 4000 - probs[words]).abs().max() < 0.03
    kept = generate(
        model, tokenizer, [PROMPTS[0]], Sampling(samples_per_prompt=500, max_new_tokens=1, temperature=0.7, top_p=0.3)
    )[0]
    order = probs.sort(descending=True)
    nucleus = int((order.values.cumsum(0) < 0.3).sum()) + 1
    allowed = {WORDS[i] if i > 4 else "" for i in order.indices[:nucleus].tolist()}
    assert {sample.text for sample in kept} <= allowed


def test_sampling_leaves_global_randomness_and_modes_alone_and_repeats() -> None:
    model, tokenizer = with_adapter(tiny_model(), 0.3), tiny_tokenizer()
    model.train()
    model.base_model.model.model.layers[0].eval()
    before = torch.random.get_rng_state()
    seen: list[tuple[int, int]] = []
    sampling = Sampling(samples_per_prompt=2, max_new_tokens=12, rows_per_batch=4, seed=7)
    first = generate(model, tokenizer, PROMPTS, sampling, on_progress=lambda done, total: seen.append((done, total)))
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.training
    assert not model.base_model.model.model.layers[0].training
    assert model.base_model.model.model.layers[1].training
    assert seen == [(2, 5), (4, 5), (5, 5)]
    torch.rand(3)
    assert generate(model, tokenizer, PROMPTS, sampling) == first
    assert generate(model, tokenizer, PROMPTS, Sampling(samples_per_prompt=2, max_new_tokens=12, seed=8)) != first


def test_the_reference_is_the_model_without_its_adapter() -> None:
    base, tokenizer = tiny_model(), tiny_tokenizer()
    sampling = Sampling(samples_per_prompt=2, max_new_tokens=12)
    plain = generate(base, tokenizer, PROMPTS, sampling)
    adapted = with_adapter(base, 0.5)
    assert generate(adapted, tokenizer, PROMPTS, sampling, use_adapter=False) == plain
    assert generate(adapted, tokenizer, PROMPTS, sampling) != plain


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_a_sample_is_the_same_whatever_runs_beside_it(top_p: float) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    prompts = [[5 + (7 * i + j * j) % 50 for j in range(1 + (i * 5) % 17)] for i in range(30)]

    def sampled(asked: list[list[int]], rows: int, samples: int = 3) -> list[list[Sample]]:
        sampling = Sampling(samples_per_prompt=samples, max_new_tokens=24, top_p=top_p, rows_per_batch=rows, seed=3)
        return generate(model, tokenizer, asked, sampling)

    whole = sampled(prompts, 256)
    assert len({sample.num_tokens for group in whole for sample in group}) > 3  # rows finish at different times
    assert len({sample.text for sample in whole[0]}) == 3
    for rows in (3, 7, 20):  # places are refilled all the time
        assert sampled(prompts, rows) == whole
    assert sampled(prompts[::-1], 20) == whole[::-1]
    assert sampled(prompts[4:9], 256) == whole[4:9]
    assert [group[:2] for group in whole] == sampled(prompts, 12, samples=2)
    longer = Sampling(samples_per_prompt=3, max_new_tokens=40, top_p=top_p, seed=3)
    for group, more in zip(whole, generate(model, tokenizer, prompts, longer), strict=True):
        assert all(b.text.startswith(a.text) for a, b in zip(group, more, strict=True))


def test_a_prompt_asked_twice_is_answered_twice() -> None:
    found = generate(
        tiny_model(), tiny_tokenizer(), [PROMPTS[0]] * 2, Sampling(samples_per_prompt=2, max_new_tokens=20)
    )
    assert len({sample.text for group in found for sample in group}) == 4
    assert generate(tiny_model(), tiny_tokenizer(), [], Sampling()) == []


def test_a_small_pool_answers_greedily_as_the_models_own_generate_does() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    prompts = [[5 + (3 * i + j) % 50 for j in range(1 + i % 9)] for i in range(20)]
    seen: list[int] = []
    found = generate(
        model,
        tokenizer,
        prompts,
        Sampling(max_new_tokens=60, temperature=0, rows_per_batch=6),
        on_progress=lambda done, _: seen.append(done),
    )
    assert seen == sorted(set(seen))
    assert seen[-1] == 20
    for prompt, (sample,) in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        row = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, do_sample=False)[0]
        assert sample.text == tokenizer.decode(row[len(prompt) :], skip_special_tokens=True)
