"""A base model that is damaged, incomplete or none is refused as ``model``, in one sentence."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.alignment import tiny
from worker.alignment import base_model
from worker.alignment.base_model import load_causal_lm
from worker.alignment.dataset import load_split
from worker.alignment.errors import ModelError
from worker.alignment.policy import load_policy
from worker.alignment.probe import probe
from worker.alignment.train import classify

UP = "model.layers.1.mlp.up_proj.weight"


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[UP]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_a_wrong_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[UP] = tensors[UP][:-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def with_a_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def of_an_unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "nonesuch"}')


def with_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def that_is_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_short, "incomplete metadata"),
        (without_a_tensor, f"its files lack {UP}"),
        (with_a_wrong_shape, f"another shape of {UP}"),
        (without_weights, "no file named model.safetensors"),
        (with_a_broken_config, "config.json"),
        (of_an_unknown_type, "nonesuch"),
        (with_a_broken_tokenizer, "cannot be loaded"),
        (that_is_an_adapter, "is an adapter"),
    ],
)
def test_damage_is_told_in_one_sentence(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(tiny.save_model(tmp_path / "model"))
    with pytest.raises(ModelError) as caught:
        load_policy(str(tmp_path / "model"), tiny.config())
    reason, message = classify(caught.value)
    assert reason == "model"
    assert words in message
    assert message.startswith("The base model tiny ")
    assert "\n" not in message


def test_a_folder_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        load_causal_lm(str(tmp_path / "gone"), dtype="auto")


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])  # tied and untied heads
def test_a_whole_model_loads(tmp_path: Path, architecture: str) -> None:
    tiny.save_model(tmp_path / "model", architecture)
    assert load_causal_lm(str(tmp_path / "model"), dtype="auto").config.vocab_size > 0


def test_four_bits_without_the_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "find_spec", lambda _: None)
    tiny.save_model(tmp_path / "model")
    with pytest.raises(ModelError, match=r"^quantization: 4bit needs the package bitsandbytes") as caught:
        load_policy(str(tmp_path / "model"), tiny.config(quantization="4bit"))
    assert classify(caught.value)[0] == "model"


def test_four_bits_without_cuda_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tiny.save_model(tmp_path / "model")
    with pytest.raises(ModelError, match=r"^quantization: 4bit needs a CUDA device"):
        load_policy(str(tmp_path / "model"), tiny.config(quantization="4bit"))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="4-bit weights need a CUDA device")
def test_four_bits_train_float32_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("hidden_size", 128), ("intermediate_size", 256), ("head_dim", 32)):  # whole blocks of 64
        monkeypatch.setitem(tiny.SIZES, name, size)
    tiny.save_model(tmp_path / "model", "qwen3")
    policy = load_policy(str(tmp_path / "model"), tiny.config(quantization="4bit"))
    tiny.save_snapshot(tmp_path / "snapshot")
    rows = load_split(tmp_path / "snapshot" / "dev.jsonl", policy.tokenizer, max_length=128).rows
    pairs = [row.pair for row in rows]
    probe(policy, pairs)
    layer = policy.lm.model.layers[0].mlp.up_proj
    assert type(layer.base_layer).__name__ == "Linear4bit"
    assert layer.base_layer.weight.dtype == torch.uint8
    assert policy.lm.lm_head.weight.dtype == torch.bfloat16
    policy.logps(pairs).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in policy.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
    assert sum(float(p.grad.abs().sum()) for p in policy.parameters() if p.grad is not None) > 0
