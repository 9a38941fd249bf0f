"""What comes in: labels, dialogues, messages."""

from __future__ import annotations

from typing import Any

import pytest

from app.core.errors import InvalidError
from app.feedback.dialogue import format_dialogue, parse_dialogue
from app.feedback.labels import parse_label
from app.feedback.messages import conversation_root, messages_text
from app.feedback.schemas import parse_item

GOOD = {"prompt": "How long?", "completion": "Three days.", "label": True}


def fields_of(**changes) -> dict[str, str]:
    with pytest.raises(InvalidError) as caught:
        parse_item({**GOOD, **changes})
    return caught.value.fields


@pytest.mark.parametrize(
    "value", [True, 1, 1.0, "up", "Up", "1", "thumbs_up", "thumbs-up", "desirable", "👍", " true "]
)
def test_thumbs_up(value):
    assert parse_label(value) is True


@pytest.mark.parametrize("value", [False, 0, -1, "down", "0", "-1", "thumbs_down", "undesirable", "👎", "False"])
def test_thumbs_down(value):
    assert parse_label(value) is False


@pytest.mark.parametrize("value", ["maybe", 2, 0.5, "", [], {}, "n/a"])
def test_no_label_is_refused_with_what_is_accepted(value):
    with pytest.raises(ValueError, match='accepted are true, false, 1, 0, -1, "up"'):
        parse_label(value)


@pytest.mark.parametrize(
    "text",
    [
        "Human: Hi\n\nAssistant:",
        "Human: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:",
        "Human:  two blanks\nand a line\n\nAssistant: a\n\nb: c\n\nHuman: d \n\nAssistant:",
        "Human: once\n\nHuman: twice\n\nAssistant:",
    ],
)
def test_dialogue_round_trip(text):
    messages = parse_dialogue(text)
    assert messages is not None
    assert format_dialogue(messages) == text
    assert parse_dialogue("\n\n" + text) == messages
    roles = [message["role"] for message in messages]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


@pytest.mark.parametrize(
    "text",
    ["Hi", "Human: Hi", "Assistant: x\n\nAssistant:", "Tell me: Human: Hi\n\nAssistant:", "Human: \n\nAssistant:"],
)
def test_ordinary_prompts_stay_one_message(text):
    assert parse_dialogue(text) is None
    assert parse_item({**GOOD, "prompt": text}).prompt == [{"role": "user", "content": text}]


def test_the_blank_after_the_marker_is_not_the_completions():
    item = parse_item({**GOOD, "prompt": "Human: Hi\n\nAssistant:", "completion": "  Hello"})
    assert item.completion == [{"role": "assistant", "content": " Hello"}]
    assert parse_item({**GOOD, "completion": " Hello"}).completion[0]["content"] == " Hello"


def test_tool_calls_null_content_and_text_parts_are_stored_as_they_came():
    call = {"id": "c1", "type": "function", "function": {"name": "track", "arguments": '{"order": 7}'}}
    prompt = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Where is "}, {"type": "text", "text": "it?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
    ]
    completion: list[dict[str, Any]] = [
        {"role": "assistant", "content": "On its way.", "refusal": None, "annotations": []}
    ]
    item = parse_item({"prompt": prompt, "completion": completion, "label": "up", "finish_reason": "length"})
    assert item.prompt == prompt
    assert item.completion == [{"role": "assistant", "content": "On its way."}]
    assert item.finish_reason == "length"
    assert messages_text(item.prompt) == 'Be kind.\n\nWhere is it?\n\ntrack({"order": 7})'
    only_call = parse_item({**GOOD, "completion": [{"role": "assistant", "content": None, "tool_calls": [call]}]})
    assert only_call.completion[0]["content"] is None


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "image_url parts are not supported"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "input_audio parts are not supported"),
        ({"role": "user", "content": None}, "content may be null only beside tool_calls"),
        ({"role": "user", "content": "  "}, "the user's message is empty"),
        ({"role": "critic", "content": "x"}, "the role 'critic' is none of system"),
        ({"role": "user", "content": "x", "function_call": {"name": "f"}}, "function_call is not supported"),
        ({"role": "user", "content": "x", "tool_calls": [{}]}, "only the assistant makes tool_calls"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "a tool call needs function.name"),
        ({"role": "assistant", "content": "x"}, "ends with an assistant message"),
        ("x", "a message is an object"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(message, words):
    assert words in fields_of(prompt=[{"role": "user", "content": "Hi"}, message])["prompt"]


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"completion": ""}, "completion", "the completion is empty"),
        ({"completion": " \n"}, "completion", "the completion is empty"),
        ({"completion": [{"role": "assistant", "content": ""}]}, "completion", "the completion is empty"),
        ({"completion": [{"role": "user", "content": "x"}]}, "completion", "this one has a user message"),
        ({"prompt": ""}, "prompt", "the prompt is empty"),
        ({"prompt": []}, "prompt", "1 to 1,000 messages"),
        ({"prompt": None}, "prompt", "text or a list of messages"),
        ({"prompt": [{"role": "system", "content": "x"}]}, "prompt", "no user message"),
        ({"label": "perhaps"}, "label", "is no label; accepted are"),
        ({"prompt": "a\x00b"}, "prompt", "NUL character"),
        ({"completion": "a\ud800b"}, "completion", "surrogate"),
        ({"category": "a\x00b"}, "category", "NUL character"),
        ({"metadata": {"a": {"b": ["\ud800"]}}}, "metadata", "metadata.a.b.0: holds half of a surrogate pair"),
        ({"metadata": {"a": float("nan")}}, "metadata", "nan is no JSON number"),
        ({"metadata": {"a": "x" * 70_000}}, "metadata", "64,000 is the limit"),
        ({"comment": "x" * 2001}, "comment", "2000"),
        ({"rater": "x" * 201}, "rater", "200"),
        ({"rater": ""}, "rater", "1 character"),
        ({"occurred_at": "2026-01-01T00:00:00"}, "occurred_at", "timezone"),
        ({"catgory": "x"}, "catgory", "put extra values under metadata"),
    ],
)
def test_bad_fields_are_named(changes, field, words):
    assert words in fields_of(**changes)[field]


def test_all_bad_fields_are_told_at_once():
    assert set(fields_of(prompt="", label="x", colour=1)) == {"prompt", "label", "colour"}


def test_a_key_that_is_no_text_is_refused_in_words_that_can_be_stored():
    for key in ("a\ud800", "a\x00"):
        ((name, words),) = fields_of(**{key: 1}).items()
        assert "\x00" not in name + words
        assert (name + words).encode()


def test_too_long(monkeypatch):
    from app.settings import get_settings

    monkeypatch.setattr(get_settings(), "max_prompt_chars", 10)
    assert "10 is the limit" in fields_of(prompt="x" * 11)["prompt"]
    assert "10 is the limit" in fields_of(prompt="x", completion="y" * 11)["completion"]


def test_root_is_the_conversation_else_system_and_first_turn():
    first = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    later = [*first, {"role": "assistant", "content": "A"}, {"role": "user", "content": "R"}]
    assert conversation_root(first, None) == conversation_root(later, None)
    assert conversation_root(first, None) != conversation_root(first[1:], None)
    assert conversation_root(first, "c1") == conversation_root([{"role": "user", "content": "other"}], "c1")
