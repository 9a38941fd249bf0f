from __future__ import annotations

import subprocess
import sys

import pytest

from tests.alignment import tiny
from worker.alignment.config import LoraSettings
from worker.alignment.estimate import DataSize, estimate_run, model_size

LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256,
    "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip
DATA = DataSize(num_rows=1000, num_tokens=300_000, num_completion_tokens=100_000, longest_row=1500)


def test_a_known_model_comes_out_right() -> None:
    assert model_size(LLAMA_8B, rank=16).num_parameters == pytest.approx(8.03e9, rel=0.001)
    assert model_size(LLAMA_8B, rank=16).num_lora_parameters == 41_943_040


def test_parts_move_with_what_they_depend_on() -> None:
    small = estimate_run(
        LLAMA_8B, tiny.config(tokens_per_microbatch=4096, batch_size=64, max_length=2048), DATA, device="cuda"
    )
    large = estimate_run(
        LLAMA_8B, tiny.config(tokens_per_microbatch=16384, batch_size=64, max_length=2048), DATA, device="cuda"
    )
    wide = estimate_run(LLAMA_8B, tiny.config(lora=LoraSettings(r=64, alpha=8)), DATA, device="cuda")
    cpu = estimate_run(LLAMA_8B, tiny.config(), DATA, device="cpu", num_cores=2)
    assert small.weights_bytes == pytest.approx(16.06e9, rel=0.01)
    assert cpu.weights_bytes == 2 * small.weights_bytes
    assert large.activation_bytes == pytest.approx(4 * small.activation_bytes)
    assert wide.adapter_bytes == 16 * small.adapter_bytes  # rank 64 against 4
    assert 0 < small.seconds_low < small.seconds_high
    assert cpu.seconds_low > small.seconds_high
    assert small.total_bytes > small.weights_bytes + small.activation_bytes


def test_steps_and_time_follow_the_epochs() -> None:
    one = estimate_run(LLAMA_8B, tiny.config(max_steps=0, num_epochs=1.0, batch_size=32), DATA, device="cuda")
    three = estimate_run(LLAMA_8B, tiny.config(max_steps=0, num_epochs=3.0, batch_size=32), DATA, device="cuda")
    assert (one.total_steps, three.total_steps) == (32, 96)
    assert three.seconds_high / one.seconds_high == pytest.approx(11 / 5, rel=0.1)  # the reference is paid once


def test_an_unknown_model_is_said_to_be_unknown() -> None:
    with pytest.raises(ValueError, match="strange is not a kind of model"):
        estimate_run({"model_type": "strange"}, tiny.config(), DATA, device="cpu")


def test_characters_stand_in_for_tokens() -> None:
    size = DataSize.from_characters(num_rows=10, characters=3500, completion_characters=700, longest=350)
    assert (size.num_tokens, size.num_completion_tokens, size.longest_row) == (1120, 210, 112)


def test_the_contracts_of_the_web_app_load_no_torch() -> None:
    modules = "config, events, estimate, weights, reporters, checkpoints, train, errors"
    code = f"import sys; from worker.alignment import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
