from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.evaluation_lib.support import save_tiny_encoder, tiny_model, with_adapter
from worker.alignment.evaluation.judging.wire import EndpointError
from worker.alignment.evaluation.semantic import endpoint_embed, local_embed, screen_embed, screen_vectors


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
    save_tiny_encoder(tmp_path)
    embed = local_embed(tmp_path, batch_size=2)
    texts = ["w1 w2 w3 w4", "w5", "w1 w2", "w9 w8 w7"]
    together = embed(texts)
    assert together.shape == (4, 16)
    alone = np.concatenate([embed([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-5)
    assert not np.allclose(together[0], together[2])


def test_mean_pooling_is_the_mean_of_the_hidden_states(tmp_path: Path) -> None:
    """Worked by hand: one text without padding."""
    save_tiny_encoder(tmp_path)
    model, tokenizer = AutoModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    given = tokenizer(["w3 w4 w5"], return_tensors="pt")
    with torch.no_grad():
        wanted = model(**given).last_hidden_state[0].mean(0).numpy()
    assert np.allclose(local_embed(tmp_path)(["w3 w4 w5", "w1"])[0], wanted, atol=1e-5)


def test_a_run_goes_on_where_its_encoder_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_encoder(tmp_path / "good")
    before = torch.random.get_rng_state()
    assert screen_embed(str(tmp_path / "good")) is not None
    assert torch.equal(before, torch.random.get_rng_state()), "the run's random numbers are its own"
    (tmp_path / "good" / "model.safetensors").rename(tmp_path / "good" / "pytorch_model.bin")
    screen_embed.cache_clear()
    assert screen_embed(str(tmp_path / "good")) is None
    assert "meanings are not compared" in capsys.readouterr().err
    assert screen_embed("") is None


def test_a_run_goes_on_where_its_encoder_fails_on_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that knows more words than the model has rows of embeddings: it loads, and fails on those words."""
    from dataclasses import replace

    from transformers import BertConfig, BertModel

    from tests.evaluation_lib.test_screen import SETTINGS, run

    save_tiny_encoder(tmp_path / "small")
    BertModel(
        BertConfig(vocab_size=3, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(tmp_path / "small")
    found, _ = run(
        tmp_path, 50, with_adapter(tiny_model(), 0.5), settings=replace(SETTINGS, encoder=str(tmp_path / "small"))
    )
    assert found.diversity is not None
    assert "semantic" not in found.diversity.overall
    assert "similarity" in found.diversity.overall
    assert "meanings are not compared at this checkpoint" in capsys.readouterr().err
    save_tiny_encoder(tmp_path / "good")
    found, _ = run(
        tmp_path, 100, with_adapter(tiny_model(), 0.5), settings=replace(SETTINGS, encoder=str(tmp_path / "good"))
    )
    assert found.diversity is not None
    assert found.diversity.overall["semantic"].reference > 0


def test_vectors_that_are_not_finite_compare_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "worker.alignment.evaluation.semantic.screen_embed"
    monkeypatch.setattr(where, lambda _folder: lambda texts: np.full((len(texts), 2), np.nan))
    assert screen_vectors("folder", ["a", "b"]) is None
    assert "not finite" in capsys.readouterr().err
    monkeypatch.setattr(where, lambda _folder: lambda texts: np.array([[len(text), 1.0] for text in texts]))
    embed = screen_vectors("folder", ["a", "bbb", "a"])
    assert embed is not None
    assert np.asarray(embed(["a", "bbb", "a"])).tolist() == [[1, 1], [3, 1], [1, 1]]
    assert screen_vectors("folder", []) is None
