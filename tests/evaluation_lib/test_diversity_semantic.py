from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from tests.evaluation_lib.support import tiny_tokenizer
from worker.alignment.evaluation.semantic import EmbeddingError, endpoint_embed, local_embed


class Endpoint:
    """Answers with each text's length and number of words, in reverse order."""

    def __init__(self, answer: Any = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer = answer

    def post(self, path: str, body: dict[str, Any]) -> Any:
        assert path == "/embeddings"
        self.asked.append(body)
        if self.answer is not None:
            return self.answer
        rows = [
            {"index": index, "embedding": [len(text), len(text.split())]} for index, text in enumerate(body["input"])
        ]
        return {"data": rows[::-1]}


def test_texts_come_back_in_order_each_sent_once() -> None:
    endpoint = Endpoint()
    many = [f"text {'x' * (number % 150)}" for number in range(400)]
    found = endpoint_embed(endpoint, "small")([*many, ""])
    assert found.tolist() == [*([len(text), len(text.split())] for text in many), [1, 0]]
    assert [len(body["input"]) for body in endpoint.asked] == [128, 23]
    assert endpoint.asked[0]["model"] == "small"
    assert endpoint.asked[1]["input"][-1] == " "


@pytest.mark.parametrize(
    "answer",
    [
        "busy",
        {"error": "no such model"},
        {"data": []},
        {"data": [{"embedding": [1]}, {"embedding": "AAAA"}]},
        {"data": [{"embedding": [1]}, {"embedding": [float("nan")]}]},
        {"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]},
        {"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]},
    ],
)
def test_nonsense_is_an_error_in_words(answer: Any) -> None:
    with pytest.raises(EmbeddingError, match="endpoint"):
        endpoint_embed(Endpoint(answer), "small")(["a", "b"])


def test_a_local_encoder_does_not_depend_on_the_company(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    embed = local_embed(tmp_path, batch_size=2)
    texts = ["w1 w2 w3 w4", "w5", "w1 w2", "w9 w8 w7"]
    together = embed(texts)
    assert together.shape == (4, 16)
    alone = np.concatenate([embed([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-5)
    assert not np.allclose(together[0], together[2])
