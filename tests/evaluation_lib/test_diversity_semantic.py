from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from tests.evaluation_lib.support import tiny_tokenizer
from worker.alignment.evaluation.judging.wire import EndpointError
from worker.alignment.evaluation.semantic import endpoint_embed, local_embed


class Endpoint:
    """Gives each text's length and number of words."""

    def __init__(self, wrong: list[list[float]] | None = None) -> None:
        self.asked: list[list[str]] = []
        self.wrong = wrong

    def embed(self, inputs: Sequence[str]) -> list[list[float]]:
        self.asked.append(list(inputs))
        return self.wrong or [[len(text), len(text.split())] for text in inputs]


def test_texts_come_back_in_order_each_sent_once() -> None:
    endpoint = Endpoint()
    many = [f"text {'x' * (number % 150)}" for number in range(400)]
    found = endpoint_embed(endpoint)([*many, ""])
    assert found.tolist() == [*([len(text), len(text.split())] for text in many), [1, 0]]
    assert [len(asked) for asked in endpoint.asked] == [128, 23]
    assert endpoint.asked[1][-1] == " "


def test_vectors_of_several_lengths_are_an_error_in_words() -> None:
    with pytest.raises(EndpointError, match="different lengths"):
        endpoint_embed(Endpoint([[1], [1, 2]]))(["a", "b"])


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
