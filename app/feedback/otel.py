"""Spans of OpenTelemetry that hold a model's answer, to completions. Pure.

The body is OTLP's ``ExportTraceServiceRequest`` as JSON. Attributes are those of the semantic conventions for generative AI
(``gen_ai.input.messages``, ``gen_ai.output.messages``, ``gen_ai.system_instructions``), on the span itself or on its event
``gen_ai.client.inference.operation.details``; messages come as JSON text or as structured values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from app.core.errors import InvalidError

EVENT = "gen_ai.client.inference.operation.details"
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "seed",
    "stop_sequences",
    "frequency_penalty",
    "presence_penalty",
)
_SUBJECTS = ("enduser.id", "user.id")
_FINISH = {"tool_call": "tool_calls"}
_MAX_DEPTH = 32


def _value(wrapped: Any, depth: int = 0) -> Any:
    """OTLP's AnyValue as plain JSON. Raises ValueError."""
    if not isinstance(wrapped, dict) or depth > _MAX_DEPTH:
        raise ValueError("an attribute's value is no AnyValue")
    if "intValue" in wrapped:
        if not isinstance(wrapped["intValue"], (int, str)):
            raise ValueError("an intValue is no whole number")
        return int(wrapped["intValue"])
    for name in ("stringValue", "doubleValue", "boolValue"):
        if name in wrapped:
            return wrapped[name]
    if "arrayValue" in wrapped:
        return [_value(each, depth + 1) for each in _list(wrapped["arrayValue"], "values")]
    if "kvlistValue" in wrapped:
        return _attributes(_list(wrapped["kvlistValue"], "values"), depth + 1)
    return None


def _list(holder: Any, name: str) -> list[Any]:
    found = holder.get(name) if isinstance(holder, dict) else None
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{name} is a list")  # noqa: TRY004
    return found


def _attributes(pairs: list[Any], depth: int = 0) -> dict[str, Any]:
    return {
        str(pair["key"]): _value(pair.get("value") or {}, depth)
        for pair in pairs
        if isinstance(pair, dict) and "key" in pair
    }


def spans_of(body: Any) -> Iterator[dict[str, Any]]:
    """Raises InvalidError where the body is no ExportTraceServiceRequest."""
    try:
        if not isinstance(body, dict) or "resourceSpans" not in body:
            raise ValueError("an object with resourceSpans")
        for resource in _list(body, "resourceSpans"):
            for scope in _list(resource, "scopeSpans"):
                for span in _list(scope, "spans"):
                    if not isinstance(span, dict):
                        raise ValueError("a span is an object")  # noqa: TRY004
                    yield span
    except ValueError as error:
        raise InvalidError("The traces do not fit.", fields={"body": str(error)}) from None


def items_of(span: dict[str, Any]) -> list[dict[str, Any]]:
    """Items for ``parse_completion_item``, one per answer; none where the span holds no answer. Raises ValueError."""
    found = _attributes(_list(span, "attributes"))
    for event in _list(span, "events"):
        if isinstance(event, dict) and event.get("name") == EVENT:
            found |= _attributes(_list(event, "attributes"))
    asked, answered = found.get("gen_ai.input.messages"), found.get("gen_ai.output.messages")
    if asked is None or answered is None:
        return []
    rules = _structured(found.get("gen_ai.system_instructions"), "gen_ai.system_instructions")
    prompt = [{"role": "system", "content": _texts(rules)}] if rules else []
    for message in _structured(asked, "gen_ai.input.messages"):
        prompt += _messages(message)
    answers = _structured(answered, "gen_ai.output.messages")
    reasons = found.get("gen_ai.response.finish_reasons") or []
    if not isinstance(reasons, list):
        raise ValueError("gen_ai.response.finish_reasons is no list")  # noqa: TRY004
    shared = _shared(found, prompt)
    items = []
    for place, answer in enumerate(answers):
        reason = answer.get("finish_reason") or (reasons[place] if place < len(reasons) else None)
        if reason is not None and not isinstance(reason, str):
            raise ValueError("a finish_reason is a text")
        item = {**shared, "completion": _messages(answer), "finish_reason": _FINISH.get(reason or "", reason)}
        if name := found.get("gen_ai.response.id") or _place(span):
            item["external_id"] = f"{name}:{place}" if len(answers) > 1 else name
        items.append(item)
    return items


def _place(span: dict[str, Any]) -> str | None:
    trace, own = span.get("traceId"), span.get("spanId")
    return f"{trace}-{own}" if trace and own else None


def _shared(found: dict[str, Any], prompt: list[dict[str, Any]]) -> dict[str, Any]:
    request = {name: found.get(f"gen_ai.request.{name}") for name in _SAMPLING}
    metadata = {
        "provider": found.get("gen_ai.provider.name") or found.get("gen_ai.system"),
        "usage": {
            name.removeprefix("gen_ai.usage."): value
            for name, value in found.items()
            if name.startswith("gen_ai.usage.")
        },
        "tools": found.get("gen_ai.tool.definitions"),
    }
    return {
        "prompt": prompt,
        "model": found.get("gen_ai.response.model") or found.get("gen_ai.request.model"),
        "sampling": {name: value for name, value in request.items() if value is not None},
        "conversation_id": found.get("gen_ai.conversation.id"),
        "subject": next((str(found[name]) for name in _SUBJECTS if found.get(name)), None),
        "metadata": {name: value for name, value in metadata.items() if value},
    }


def _structured(value: Any, name: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"{name} is no JSON") from None
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError(f"{name} is no list of objects")
    return value


def _texts(parts: list[dict[str, Any]]) -> str:
    for part in parts:
        if part.get("type") != "text":
            raise ValueError(f"{part.get('type')} parts are not supported, only text")
    return "\n\n".join(str(part.get("content", "")) for part in parts)


def _messages(message: dict[str, Any]) -> list[dict[str, Any]]:
    """One message of the conventions as chat messages: each tool's answer is a message of its own. Thoughts are left out."""
    role = message.get("role")
    texts: list[dict[str, Any]] = []
    calls, answers = [], []
    for part in _list(message, "parts"):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_call":
            function = {"name": part.get("name"), "arguments": _as_text(part.get("arguments"))}
            calls.append({"id": part.get("id"), "type": "function", "function": function})
        elif kind == "tool_call_response":
            said = part.get("response", part.get("result"))
            answers.append({"role": "tool", "tool_call_id": part.get("id"), "content": _as_text(said)})
        elif kind != "reasoning":
            texts.append(part if isinstance(part, dict) else {"type": str(kind)})
    if answers and not texts and not calls:
        return answers
    made: dict[str, Any] = {"role": role, "content": _texts(texts) if texts or not calls else None}
    if message.get("name"):
        made["name"] = message["name"]
    return [made | ({"tool_calls": calls} if calls else {}), *answers]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
