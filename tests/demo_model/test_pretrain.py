from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from worker.alignment.dataset import Encoder
from worker.demo.__main__ import main
from worker.demo.corpus import chats, style_of
from worker.demo.feedback import NOISE, _rated, encode_prompt, write_feedback
from worker.demo.pretrain import Recipe, pretrain

TINY = Recipe(
    hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128, num_chats=3000, num_steps=40, rows_per_step=8
)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines: list[str] = []
    folder = pretrain(tmp_path_factory.mktemp("demo") / "model", TINY, num_threads=1, report=lines.append)
    losses = [float(line.split("loss")[1].split()[0]) for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 1
    assert "s left" in lines[0]
    assert any("100 %" in line for line in lines)
    return folder


def test_the_model_loads_in_plain_transformers(model_dir: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
    names = {path.name for path in model_dir.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "model.safetensors",
    } <= names
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Ünïcode, 日本 and emoji 🙂?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>Be brief.<|end|><|user|>Ünïcode, 日本 and emoji 🙂?<|end|><|assistant|>"
    ids = encode_prompt(tokenizer, messages)
    assert tokenizer.decode(ids) == text
    assert model(torch.tensor([ids])).logits.shape == (1, len(ids), len(tokenizer))
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert list(model_dir.parent.iterdir()) == [model_dir]


def test_training_rows_begin_where_the_answer_does(model_dir: Path) -> None:
    """The trainer's encoder finds in a chat what pre-training scored: the answer and its end token."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    record = {
        "id": 1,
        "prompt": [{"role": "user", "content": "Name a fruit."}],
        "completion": [{"role": "assistant", "content": "Plums."}],
        "label": True,
        "root": "r",
    }
    row = Encoder(tokenizer, max_length=512).encode(record)
    assert tokenizer.decode(row.pair.completion_ids.tolist()) == "Plums.<|end|>"  # type: ignore[union-attr]
    assert row.pair.prompt_ids.tolist() == encode_prompt(tokenizer, record["prompt"])  # type: ignore[union-attr, arg-type]


def test_the_recipe_fixes_the_weights_and_is_kept(model_dir: Path, tmp_path: Path) -> None:
    again = pretrain(tmp_path / "model", TINY, num_threads=1, report=lambda _: None)
    assert digest(again) == digest(model_dir)
    before = (again / "model.safetensors").stat().st_mtime_ns
    lines: list[str] = []
    pretrain(again, TINY, num_threads=1, report=lines.append)
    assert lines == [f"The base model is in {again} already."]
    assert (again / "model.safetensors").stat().st_mtime_ns == before
    other = Recipe(**{name: getattr(TINY, name) for name in Recipe.__dataclass_fields__} | {"num_steps": 2})
    pretrain(again, other, num_threads=1, report=lambda _: None)
    assert digest(again) != digest(model_dir)
    assert list(tmp_path.iterdir()) == [again]


def test_feedback_is_in_the_import_format(model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "feedback.jsonl"
    assert write_feedback(out, model_dir, seed=5, num=120, report=lambda _: None) == 120
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 120
    assert all(set(row) == {"prompt", "completion", "label", "category", "model", "rater", "metadata"} for row in rows)
    assert len({(row["prompt"][0]["content"], row["completion"]) for row in rows}) == 120
    assert len({row["category"] for row in rows}) >= 40
    first = out.read_text(encoding="utf-8")
    write_feedback(out, model_dir, seed=5, num=120, report=lambda _: None)
    assert out.read_text(encoding="utf-8") == first


def test_simulated_raters_follow_the_style_but_for_their_noise() -> None:
    rng = random.Random(1)
    told = [(chat, _rated(rng, chat.category, chat.prompt, chat.completion)["label"]) for chat in chats(3, 2000)]
    wrong = sum(style_of(chat.completion) != label for chat, label in told) / len(told)
    assert NOISE - 0.02 < wrong < NOISE + 0.02


def test_feedback_without_a_model_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feedback", "--out", str(tmp_path / "f.jsonl"), "--model", str(tmp_path)]) == 2
    assert "python -m worker.demo pretrain" in capsys.readouterr().out
