"""A chat-completions request and its response, as an app logs them, to completions. Pure.

Shapes as in OpenAI's API reference (chat.completion, chat.completion.chunk); servers that speak the same add fields of their own.
"""

from __future__ import annotations

from typing import Any

from app.core.errors import InvalidError

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "n",
    "reasoning_effort",
    "verbosity",
)
KEPT = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
"""Of the request, under the item's metadata."""
BESIDE = ("category", "conversation_id", "subject", "metadata")
"""What an app may say of a pair beside request and response."""
THOUGHTS = ("reasoning_content", "reasoning")
"""Some servers put a model's reasoning beside its answer: it was not what people judged."""
_NAMED = {
    "response": "the Responses API's shape is not supported; send a chat-completions request and response",
    "text_completion": "the legacy completions shape is not supported; send a chat-completions request and response",
    "message": "Anthropic's Messages shape is not supported; send prompt and completion to /completions/batch",
}


def _refuse(field: str, words: str) -> InvalidError:
    return InvalidError("The logged call does not fit.", fields={field: words})


def items_of(pair: Any) -> list[dict[str, Any]]:
    """Items for ``parse_completion_item``, one per choice. Raises InvalidError that names what is not supported."""
    if not isinstance(pair, dict):
        raise _refuse("item", "an object with request and response")
    unknown = sorted(set(pair) - {"request", "response", *BESIDE}, key=str)
    if unknown:
        raise _refuse(str(unknown[0]), f"is no field here; besides request and response there are {', '.join(BESIDE)}")
    request = pair.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
        words = _NAMED["response"] if isinstance(request, dict) and "input" in request else "needs its messages"
        raise _refuse("request", words)
    response = _whole(pair.get("response"))
    choices = response["choices"]
    shared = _shared(pair, request, response)
    name, many = response.get("id"), len(choices) > 1
    items = []
    for place, choice in enumerate(choices):
        item = _choice(choice, f"response.choices.{place}", shared)
        if isinstance(name, str) and name:
            item["external_id"] = f"{name}:{choice.get('index', place)}" if many else name
        items.append(item)
    return items


def _shared(pair: dict[str, Any], request: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    given = pair.get("metadata") or {}
    if not isinstance(given, dict):
        raise _refuse("metadata", "an object")
    logged = request.get("metadata")
    metadata = {
        **(logged if isinstance(logged, dict) else {}),
        **{name: request[name] for name in KEPT if request.get(name) is not None},
        **{name: response[name] for name in ("usage", "system_fingerprint") if response.get(name) is not None},
        **given,
    }
    shared = {
        "prompt": request["messages"],
        "model": response.get("model") or request.get("model"),
        "sampling": {name: request[name] for name in SAMPLING if request.get(name) is not None},
        "subject": request.get("safety_identifier") or request.get("user"),
        "metadata": metadata,
    }
    return shared | {name: pair[name] for name in BESIDE if name != "metadata" and pair.get(name) is not None}


def _choice(choice: Any, place: str, shared: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise _refuse(place, "needs its message")
    metadata = dict(shared["metadata"])
    for name in THOUGHTS:
        if message.get(name):
            metadata[name] = message[name]
    message = {key: value for key, value in message.items() if key not in THOUGHTS}
    refusal = message.pop("refusal", None)
    if refusal and not message.get("content"):
        message["content"], metadata["refusal"] = refusal, True
    return {**shared, "completion": [message], "finish_reason": choice.get("finish_reason"), "metadata": metadata}


def _whole(response: Any) -> dict[str, Any]:
    if isinstance(response, list):
        return merge_chunks(response)
    if not isinstance(response, dict):
        raise _refuse("response", "an object, or the list of its streamed chunks")
    kind = response.get("object") or response.get("type") or "chat.completion"
    if response.get("error"):
        raise _refuse("response", "is an error: there is no output to store")
    if not isinstance(kind, str):
        raise _refuse("response", "object names what it is, such as chat.completion")
    if kind in _NAMED:
        raise _refuse("response", _NAMED[kind])
    choices = response.get("choices")
    if kind != "chat.completion" or not isinstance(choices, list) or not choices:
        raise _refuse(
            "response", f"{kind} without choices" if kind == "chat.completion" else f"{kind} is not supported"
        )
    return response


def merge_chunks(chunks: list[Any]) -> dict[str, Any]:
    """Streamed chunks of one response, in order, as the response that they make. Raises InvalidError."""
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for number, chunk in enumerate(chunks):
        place = f"response.{number}"
        if not isinstance(chunk, dict) or chunk.get("object") != "chat.completion.chunk":
            raise _refuse(place, "is no chat.completion.chunk")
        for name in ("id", "model", "usage", "system_fingerprint"):
            if chunk.get(name):
                whole[name] = chunk[name]
        parts = chunk.get("choices") or []
        if not isinstance(parts, list):
            raise _refuse(place, "choices is a list")
        for part in parts:
            delta = part.get("delta") if isinstance(part, dict) else None
            index = part.get("index", 0) if isinstance(part, dict) else None
            if not isinstance(delta, dict) or not isinstance(index, int):
                raise _refuse(place, "a choice has index and delta")
            choice = choices.setdefault(index, {"index": index, "message": {"role": "assistant", "content": None}})
            _add(choice["message"], delta, place)
            if part.get("finish_reason"):
                choice["finish_reason"] = part["finish_reason"]
    if not choices:
        raise _refuse("response", "chunks without choices")
    return {**whole, "choices": [choices[index] for index in sorted(choices)]}


def _add(message: dict[str, Any], delta: dict[str, Any], place: str) -> None:
    for name, value in delta.items():
        if name == "role" or value is None:
            continue
        if name == "tool_calls":
            _add_calls(message.setdefault("tool_calls", []), value, place)
        elif not isinstance(value, str):
            raise _refuse(place, f"{name} is not supported in a streamed chunk")
        else:
            message[name] = (message.get(name) or "") + value


def _add_calls(calls: list[dict[str, Any]], parts: Any, place: str) -> None:
    for each in parts if isinstance(parts, list) else [None]:
        part: dict[str, Any] = each if isinstance(each, dict) else {"index": -1}
        index, function = part.get("index", 0), part.get("function") or {}
        if not isinstance(function, dict) or not isinstance(index, int) or not 0 <= index <= len(calls):
            raise _refuse(place, "a streamed tool call has index and function")
        if index == len(calls):
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call = calls[index]
        call["id"] = part.get("id") or call["id"]
        for name in ("name", "arguments"):
            said = function.get(name) or ""
            if not isinstance(said, str):
                raise _refuse(place, f"{name} of a streamed tool call is text")
            call["function"][name] += said
