"""Boundaries, truncation and end-of-sequence targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.alignment import tiny
from worker.alignment.dataset import Encoder, Row, SkippedRow, common_prefix, load_split
from worker.alignment.errors import DataError, ModelError

USER = [{"role": "user", "content": "the cat sat"}]


def record(prompt: Any = USER, text: str = "a red mat", **changes: Any) -> dict[str, Any]:
    return tiny.record(1, prompt=prompt, completion=[{"role": "assistant", "content": text}], **changes)


def encode(tokenizer: Any, given: dict[str, Any], max_length: int = 200) -> Row:
    row = Encoder(tokenizer, max_length=max_length).encode(given)
    assert isinstance(row, Row), row
    return row


def texts(tokenizer: Any, row: Row) -> tuple[str, str]:
    return tokenizer.decode(row.pair.prompt_ids), tokenizer.decode(row.pair.completion_ids)


def test_trap_09_the_boundary_lies_after_the_generation_prompt() -> None:
    made = tiny.tokenizer()
    row = encode(made, record())
    prompt, completion = texts(made, row)
    assert prompt == "<|im_start|>user\nthe cat sat<|im_end|>\n<|im_start|>assistant\n"
    assert completion == "a red mat<|im_end|>"  # the newline after it is never generated, so never a target
    assert row.label in (True, False)


def test_trap_09_prompt_and_completion_are_tokenised_as_one_text() -> None:
    made = tiny.tokenizer(template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    row = encode(made, record(prompt=[{"role": "user", "content": "the c"}], text="at sat"))
    together = made("the cat sat", add_special_tokens=False)["input_ids"]
    assert [*row.pair.prompt_ids, *row.pair.completion_ids] == [*together, made.eos_token_id]
    assert len(row.pair.prompt_ids) == common_prefix(made("the c")["input_ids"], together)


def test_trap_08_an_answer_cut_by_its_limit_gets_no_end_target() -> None:
    made = tiny.tokenizer()
    row = encode(made, record(finish_reason="length"))
    assert texts(made, row)[1] == "a red mat"
    assert made.eos_token_id not in row.pair.completion_ids


@pytest.mark.parametrize("text", ["end", "im", "<"])
def test_a_cut_answer_whose_text_is_part_of_the_end_tag(text: str) -> None:
    made = tiny.tokenizer()
    row = encode(made, record(finish_reason="length", text=text))
    assert texts(made, row)[1] == text


@pytest.mark.parametrize("reason", ["stop", None])
def test_a_template_without_end_token_gets_one(reason: str | None) -> None:
    made = tiny.tokenizer(template="{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}")
    row = encode(made, record(finish_reason=reason))
    assert row.pair.completion_ids[-1] == made.eos_token_id
    assert list(row.pair.completion_ids).count(made.eos_token_id) == 1


def test_an_end_of_turn_token_of_the_generation_config_ends_the_completion() -> None:
    made = tiny.tokenizer(eos="<pad>")
    (end,) = made("<|im_end|>", add_special_tokens=False)["input_ids"]
    row = Encoder(made, max_length=200, end_ids=[end]).encode(record())
    assert isinstance(row, Row)
    assert row.pair.completion_ids[-1] == end


def test_a_tool_call_goes_through_the_template_and_loses_its_end_when_cut() -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] or '') }}"
        "{% if m.tool_calls %}{{ 'CALL ' + m.tool_calls[0].function.name }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    made = tiny.tokenizer(template=template)
    call = [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": {}}}]}]
    whole = encode(made, tiny.record(1, completion=call))
    assert texts(made, whole)[1] == "CALL weather<|im_end|>"
    cut = encode(made, tiny.record(1, completion=call, finish_reason="length"))
    assert texts(made, cut)[1] == "CALL weather"


def test_a_tokenizer_without_template_gets_the_documented_one() -> None:
    made = tiny.tokenizer(template=None)
    prompt = [{"role": "system", "content": "Be brief."}, *USER]
    assert texts(made, encode(made, record(prompt=prompt))) == (
        "system: Be brief.\nuser: the cat sat\nassistant:",
        " a red mat<|im_end|>",
    )


def test_trap_08_a_long_prompt_loses_its_left_part_but_not_the_system_message() -> None:
    made = tiny.tokenizer()
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "the cat sat " * 40 + "under trees"},
    ]
    row = encode(made, record(prompt=prompt), max_length=70)
    head, completion = texts(made, row)
    assert row.num_tokens == 70
    assert head.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert head.endswith("under trees<|im_end|>\n<|im_start|>assistant\n")
    assert completion == "a red mat<|im_end|>"


def test_trap_08_a_completion_that_does_not_fit_is_skipped_with_its_size() -> None:
    made = tiny.tokenizer()
    skipped = Encoder(made, max_length=20).encode(record(text="the cat sat on a red mat " * 20))
    assert isinstance(skipped, SkippedRow)
    assert skipped.id == 1001
    assert "max_length is 20" in skipped.reason
    system = [{"role": "system", "content": "Be very brief and calm. " * 20}, *USER]
    crowded = Encoder(made, max_length=60).encode(record(prompt=system))
    assert isinstance(crowded, SkippedRow)
    assert "fixed beginning" in crowded.reason


def test_a_template_that_refuses_the_row_skips_it() -> None:
    made = tiny.tokenizer(template="{{ raise_exception('roles must alternate') }}")
    skipped = Encoder(made, max_length=50).encode(record())
    assert isinstance(skipped, SkippedRow)
    assert "roles must alternate" in skipped.reason


def test_no_end_of_sequence_token_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="end-of-sequence"):
        Encoder(tiny.tokenizer(eos=None), max_length=50)


@pytest.mark.parametrize(
    "line", ["{", '{"id": 1}', '{"id": 1, "prompt": [], "completion": [], "label": "up", "root": "r"}']
)
def test_a_line_that_is_no_row_is_a_data_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.jsonl line 1"):
        load_split(path, tiny.tokenizer(), max_length=50)
