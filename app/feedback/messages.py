"""Chat messages at the border: stored as they came, or refused by name. Nothing is rewritten."""

# ruff: noqa: TRY004 -- pydantic makes a field's message of a ValueError, never of a TypeError

from __future__ import annotations

import math
import re
from typing import Any

from app.core.ids import content_hash
from app.feedback.dialogue import parse_dialogue
from app.settings import get_settings

ROLES = ("system", "developer", "user", "assistant", "tool")
_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id"}
_MAX_MESSAGES = 1000
_MAX_DEPTH = 32
_SURROGATE = re.compile("[\ud800-\udfff]")


def _check_string(value: str, place: str) -> None:
    if "\x00" in value:
        raise ValueError(f"{place}: holds a NUL character (\\u0000), which cannot be stored; remove it")
    if not value.isascii() and _SURROGATE.search(value):
        raise ValueError(f"{place}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")


def check_storable(value: Any, place: str = "", depth: int = 0) -> None:
    """Raises ValueError for what PostgreSQL's text and JSON cannot hold: NUL, half a surrogate pair, NaN, endless nesting."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"{place}: nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, str):
        _check_string(value, place)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{place}: {value} is no JSON number")
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_storable(str(key), f"{place}: a key", depth + 1)
            check_storable(inner, f"{place}.{key}" if place else str(key), depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            check_storable(inner, f"{place}.{number}", depth + 1)


def _check_parts(parts: list[Any], place: str) -> None:
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise ValueError(f"{place}.{number}: {kind or type(part).__name__} parts are not supported, only text")
        if not isinstance(part.get("text"), str):
            raise ValueError(f"{place}.{number}: a text part needs its text")
        unknown = sorted(set(part) - {"type", "text"})
        if unknown:
            raise ValueError(f"{place}.{number}: {unknown[0]} is not supported in a text part")


def _check_tool_calls(calls: Any, place: str) -> None:
    if not isinstance(calls, list):
        raise ValueError(f"{place}: tool_calls is a list")
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(f"{place}.{number}: a tool call needs function.name")
        if not isinstance(function.get("arguments", ""), (str, dict)):
            raise ValueError(f"{place}.{number}: function.arguments is a string or an object")


def _check_message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ValueError(f"{place}: a message is an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        raise ValueError(f"{place}: the role {role!r} is none of {', '.join(ROLES)}")
    # Clients dump keys that say nothing ("refusal": null, "annotations": []): these go, all else unknown is refused.
    kept = {key: value for key, value in message.items() if key in _KEYS or value not in (None, [])}
    unknown = sorted(set(kept) - _KEYS)
    if unknown:
        raise ValueError(f"{place}: {unknown[0]} is not supported")
    calls = kept.get("tool_calls")
    if not calls:
        kept.pop("tool_calls", None)
    elif role != "assistant":
        raise ValueError(f"{place}: only the assistant makes tool_calls")
    else:
        _check_tool_calls(calls, f"{place}.tool_calls")
    for key in ("name", "tool_call_id"):
        if kept.get(key, "") is None:
            kept.pop(key)
        elif not isinstance(kept.get(key, ""), str):
            raise ValueError(f"{place}.{key}: a string")
    return _check_content(kept, place)


def _check_content(message: dict[str, Any], place: str) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list):
        _check_parts(content, f"{place}.content")
    elif content is None:
        if not message.get("tool_calls"):
            raise ValueError(f"{place}: content may be null only beside tool_calls")
        message["content"] = None
    elif not isinstance(content, str):
        raise ValueError(f"{place}.content: text or a list of text parts")
    if message["role"] == "user" and not content_text(content).strip():
        raise ValueError(f"{place}: the user's message is empty")
    return message


def content_text(content: Any) -> str:
    """Plain text of a message's content: the string, or its text parts after one another."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or ""


def messages_text(messages: list[dict[str, Any]]) -> str:
    """Plain text of messages, for search and lists; a tool call reads ``name(arguments)``."""
    pieces = []
    for message in messages:
        pieces.append(content_text(message.get("content")))
        calls = [call["function"] for call in message.get("tool_calls") or []]
        pieces += [f"{call['name']}({call.get('arguments', '')})" for call in calls]
    return "\n\n".join(piece for piece in pieces if piece)


def shown_turns(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Role and text of each message, for pages."""
    return [(message["role"], messages_text([message])) for message in messages]


def _check_list(messages: list[Any], place: str) -> list[dict[str, Any]]:
    if not 1 <= len(messages) <= _MAX_MESSAGES:
        raise ValueError(f"{place}: 1 to {_MAX_MESSAGES:,} messages, not {len(messages):,}")
    return [_check_message(message, f"{place}.{number}") for number, message in enumerate(messages)]


def _check_length(messages: list[dict[str, Any]], place: str) -> list[dict[str, Any]]:
    limit, length = get_settings().max_prompt_chars, len(messages_text(messages))
    if length > limit:
        raise ValueError(f"the {place} has {length:,} characters, {limit:,} is the limit (KTO_MAX_PROMPT_CHARS)")
    return messages


def parse_prompt(value: Any) -> list[dict[str, Any]]:
    """Messages of a prompt: a list as it came; a string as one user message or as the dialogue that it holds."""
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("the prompt is empty")
        return _check_length(parse_dialogue(value) or [{"role": "user", "content": value}], "prompt")
    if not isinstance(value, list):
        raise ValueError("a prompt is text or a list of messages")
    messages = _check_list(value, "prompt")
    if not any(message["role"] == "user" for message in messages):
        raise ValueError("the prompt has no user message")
    if messages[-1]["role"] == "assistant":
        raise ValueError("the prompt ends with an assistant message; send that one as the completion")
    return _check_length(messages, "prompt")


def parse_completion(value: Any) -> list[dict[str, Any]]:
    """Messages of a completion: a list as it came; a string as one assistant message."""
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("the completion is empty")
        return _check_length([{"role": "assistant", "content": value}], "completion")
    if not isinstance(value, list):
        raise ValueError("a completion is text or a list of messages")
    messages = _check_list(value, "completion")
    wrong = next((message["role"] for message in messages if message["role"] not in ("assistant", "tool")), None)
    if wrong:
        raise ValueError(f"a completion has assistant and tool messages only, this one has a {wrong} message")
    if messages[0]["role"] != "assistant":
        raise ValueError("a completion begins with an assistant message")
    if not messages_text(messages).strip():
        raise ValueError("the completion is empty")
    return _check_length(messages, "completion")


def conversation_root(messages: list[dict[str, Any]], conversation_id: str | None) -> str:
    """The unit of splits: the hash of the conversation's id, else of the system message and the first user turn."""
    if conversation_id:
        return content_hash(conversation_id)
    system = [content_text(m.get("content")) for m in messages if m["role"] in ("system", "developer")]
    first = next(content_text(m.get("content")) for m in messages if m["role"] == "user")
    return content_hash(["\n\n".join(system), first])
