"""What ``bench.evaluation`` measures: our batched sampler, and the loop one writes first."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from worker.alignment.generate import Sampling, generate
from worker.demo import corpus
from worker.demo.pretrain import ASSISTANT, END, USER, train_tokenizer

VOCAB = 1536


DEMO = {"hidden_size": 160, "num_hidden_layers": 4, "num_attention_heads": 5, "intermediate_size": 448}
LARGER = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1376}


def make_model(tokenizer: Any, sizes: dict[str, int] = DEMO) -> Any:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        **sizes,
        max_position_embeddings=512,
        initializer_range=0.1,  # far from uniform, so that the most probable token is no matter of rounding
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(shape).eval()


class Sides:
    """``plain`` gets the first ``num_plain`` of the prompts: what is compared is tokens a second."""

    def __init__(
        self,
        *,
        num_prompts: int,
        samples: int,
        max_new_tokens: int,
        sizes: dict[str, int] = DEMO,
        num_plain: int | None = None,
    ) -> None:
        chats = list(corpus.chats(0, 2000))
        texts = [f"{USER}{chat.prompt}{END}{ASSISTANT}{chat.completion}{END}" for chat in chats]
        self.tokenizer = train_tokenizer(texts, VOCAB)
        self.model = make_model(self.tokenizer, sizes)
        asked = list(dict.fromkeys(chat.prompt for chat in chats))[:num_prompts]
        self.prompts = [self.tokenizer(f"{USER}{text}{END}{ASSISTANT}")["input_ids"] for text in asked]
        self.num_plain = num_plain or num_prompts
        self.samples, self.max_new_tokens = samples, max_new_tokens
        self.tokens: dict[str, list[float]] = {"ours": [], "plain": []}
        """Sampled tokens of every call."""

    def ours(self, number: int) -> None:
        sampling = Sampling(samples_per_prompt=self.samples, max_new_tokens=self.max_new_tokens, seed=number + 1)
        found = generate(self.model, self.tokenizer, self.prompts, sampling)
        self.tokens["ours"].append(float(sum(sample.num_tokens for group in found for sample in group)))

    def plain(self, number: int) -> None:
        torch.manual_seed(number + 1)
        count = 0
        for prompt in self.prompts[: self.num_plain]:
            rows = self._plain(prompt, do_sample=True, top_k=0, num_return_sequences=self.samples)
            self.tokenizer.batch_decode(rows, skip_special_tokens=True)
            count += sum(self._length(row) for row in rows)
        self.tokens["plain"].append(float(count))

    def greedy_agreement(self) -> list[float]:
        """For every prompt that both answer 1.0 where both sides' greedy answers are the same text, else 0.0."""
        asked = self.prompts[: self.num_plain]
        ours = generate(self.model, self.tokenizer, asked, Sampling(temperature=0, max_new_tokens=self.max_new_tokens))
        plain = [self._plain(prompt, do_sample=False)[0] for prompt in asked]
        texts = [text.strip() for text in self.tokenizer.batch_decode(plain, skip_special_tokens=True)]
        return [float(group[0].text == text) for group, text in zip(ours, texts, strict=True)]

    def _plain(self, prompt: list[int], **options: Any) -> list[list[int]]:
        ids = torch.tensor([prompt])
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.max_new_tokens, **options
        )
        rows: list[list[int]] = out[:, len(prompt) :].tolist()
        return rows

    def _length(self, row: list[int]) -> int:
        end = self.tokenizer.eos_token_id
        return row.index(end) + 1 if end in row else len(row)
