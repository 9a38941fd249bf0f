"""Logged calls as outputs. Shapes: OpenAI's API reference for chat.completion, chat.completion.chunk and the Responses API;
OTLP 1.x JSON encoding (opentelemetry-proto, examples/trace.json); GenAI semantic conventions 1.37 and later
(gen-ai-input-messages.json, gen-ai-output-messages.json, gen-ai-system-instructions.json)."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from sqlalchemy import select

from app.core.errors import InvalidError
from app.feedback import openai_logs, otel
from app.feedback.schemas import parse_completion_item
from app.models import Completion

TOOLS = [{"type": "function", "function": {"name": "get_current_weather", "parameters": {"type": "object"}}}]
CALL = {
    "id": "call_abc123",
    "type": "function",
    "function": {"name": "get_current_weather", "arguments": '{\n"location": "Boston, MA"\n}'},
}
REQUEST: dict[str, Any] = {
    "model": "gpt-5.4",
    "messages": [
        {"role": "developer", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello!"},
    ],
    "temperature": 0.2,
    "top_p": 1,
    "max_completion_tokens": 64,
    "user": "user-1234",
    "metadata": {"session": "s1"},
    "stream": False,
}
RESPONSE: dict[str, Any] = {
    "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
    "object": "chat.completion",
    "created": 1741569952,
    "model": "gpt-5.4-2026-03-05",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello! How can I assist you today?",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
    "service_tier": "default",
}


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {
        "id": "chatcmpl-123",
        "object": "chat.completion.chunk",
        "created": 1694268190,
        "model": "gpt-4o-mini",
        "system_fingerprint": "fp_44709d6fcb",
        "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }


STREAM = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo"}),
    chunk({}, "stop"),
    {**chunk({}), "choices": [], "usage": {"total_tokens": 5}},
]


def pair(request: Any = REQUEST, response: Any = RESPONSE, **beside: Any) -> dict[str, Any]:
    return {"request": request, "response": response, **beside}


def answered(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": "stop", **more}
    return {**RESPONSE, "choices": [choice]}


def test_a_call_becomes_an_output():
    (raw,) = openai_logs.items_of(pair(category="greeting"))
    item = parse_completion_item(raw)
    assert item.prompt == REQUEST["messages"]
    assert item.completion == [{"role": "assistant", "content": "Hello! How can I assist you today?"}]
    assert (item.model, item.finish_reason, item.subject) == ("gpt-5.4-2026-03-05", "stop", "user-1234")
    assert item.sampling == {"temperature": 0.2, "top_p": 1, "max_completion_tokens": 64}
    assert (item.external_id, item.category) == (RESPONSE["id"], "greeting")
    assert item.metadata == {"session": "s1", "usage": RESPONSE["usage"]}


def test_tools_and_their_calls():
    request = {**REQUEST, "tools": TOOLS, "tool_choice": "auto", "safety_identifier": "hash-1"}
    response = answered({"role": "assistant", "content": None, "tool_calls": [CALL]}, finish_reason="tool_calls")
    item = parse_completion_item(openai_logs.items_of(pair(request, response))[0])
    assert item.completion == [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
    assert (item.metadata["tools"], item.metadata["tool_choice"], item.subject) == (TOOLS, "auto", "hash-1")


def test_several_choices_have_ids_of_their_own():
    choices = [{**RESPONSE["choices"][0], "index": n} for n in range(2)]
    items = openai_logs.items_of(pair(response={**RESPONSE, "choices": choices}))
    assert [item["external_id"] for item in items] == [f"{RESPONSE['id']}:0", f"{RESPONSE['id']}:1"]


def test_a_refusal_is_the_answer_and_thoughts_are_not():
    refused = answered({"role": "assistant", "content": None, "refusal": "I can't help with that."})
    item = parse_completion_item(openai_logs.items_of(pair(response=refused))[0])
    assert item.completion[0]["content"] == "I can't help with that."
    assert item.metadata["refusal"] is True
    thought = answered({"role": "assistant", "content": "4", "reasoning_content": "2 + 2"})
    item = parse_completion_item(openai_logs.items_of(pair(response=thought))[0])
    assert (item.completion, item.metadata["reasoning_content"]) == ([{"role": "assistant", "content": "4"}], "2 + 2")


def test_streamed_chunks_are_put_together():
    (raw,) = openai_logs.items_of(pair(response=STREAM))
    item = parse_completion_item(raw)
    assert (item.completion[0]["content"], item.finish_reason, item.external_id) == ("Hello", "stop", "chatcmpl-123")
    assert item.metadata["usage"] == {"total_tokens": 5}
    start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    parts = [{"index": 0, "function": {"arguments": text}} for text in ('{"a"', ": 1}")]
    stream = [chunk({"role": "assistant", "content": None, "tool_calls": [start]})]
    stream += [chunk({"tool_calls": [part]}) for part in parts]
    item = parse_completion_item(openai_logs.items_of(pair(response=[*stream, chunk({}, "tool_calls")]))[0])
    assert item.completion[0]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]


@pytest.mark.parametrize(
    ("sent", "field", "words"),
    [
        (None, "item", "an object with request and response"),
        (pair(extra=1), "extra", "is no field here"),
        (pair(request={"model": "m"}), "request", "needs its messages"),
        (pair(request={"model": "m", "input": "Hi"}), "request", "Responses API"),
        (pair(response={"object": "response", "output": []}), "response", "Responses API"),
        (pair(response={"object": "text_completion", "choices": []}), "response", "legacy completions"),
        (pair(response={"type": "message", "content": []}), "response", "Messages shape"),
        (pair(response={"object": "list"}), "response", "list is not supported"),
        (pair(response={"error": {"message": "overloaded"}}), "response", "is an error"),
        (pair(response={**RESPONSE, "choices": []}), "response", "without choices"),
        (pair(response={**RESPONSE, "choices": [{}]}), "response.choices.0", "needs its message"),
        (pair(response=[]), "response", "without choices"),
        (pair(response=[RESPONSE]), "response.0", "no chat.completion.chunk"),
        (pair(response=[chunk({"audio": {}})]), "response.0", "audio is not supported"),
        (pair(response=[chunk({"tool_calls": [{"index": 3}]})]), "response.0", "index and function"),
        (pair(response="Hi"), "response", "an object"),
        (pair(metadata=[]), "metadata", "an object"),
    ],
)
def test_other_shapes_are_refused_by_name(sent, field, words):
    if sent == pair(metadata=[]):
        sent = pair(metadata=[1])
    with pytest.raises(InvalidError) as caught:
        openai_logs.items_of(sent)
    assert words in caught.value.fields[field]


@pytest.fixture
def api(client, factory):
    client.headers["Authorization"] = f"Bearer {factory.api_key(factory.project())}"
    return client


def test_openai_route(api, db):
    thumb = {"completion_id": RESPONSE["id"], "rater": "u1", "up": True}
    assert api.post("/api/v1/feedback", json=thumb).status_code == 202
    body = api.post("/api/v1/completions/openai", json=[pair(), pair(response="Hi"), pair(response=STREAM)]).json()
    assert [item["status"] for item in body["items"]] == ["created", "error", "created"]
    assert api.post("/api/v1/feedback", json=thumb).json()["status"] == "unchanged"
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}]
    body = api.post("/api/v1/completions/openai", json=pair({**REQUEST, "messages": image})).json()
    assert "image_url parts are not supported" in body["items"][0]["fields"]["prompt"]
    assert api.post("/api/v1/completions/openai", json=[]).status_code == 422
    assert len(db.scalars(select(Completion)).all()) == 2


INPUT = [
    {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]},
    {
        "role": "assistant",
        "parts": [
            {"type": "tool_call", "id": "call_1", "name": "get_weather", "arguments": {"location": "Paris"}},
        ],
    },
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": "rainy, 57°F"}]},
]
SAID = "The weather in Paris is currently rainy, 57°F."
OUTPUT = [
    {
        "role": "assistant",
        "parts": [{"type": "text", "content": SAID}],
        "finish_reason": "stop",
    }
]
SYSTEM = [{"type": "text", "content": "You are a helpful bot."}]


def any_value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(each) for each in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": attributes(value)}}
    return {"stringValue": value}


def attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": any_value(value)} for key, value in values.items()]


def span(values: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "traceId": "5B8EFFF798038103D269B633813FC60C",
        "spanId": "EEE19B7EC3C1B174",
        "parentSpanId": "EEE19B7EC3C1B173",
        "name": "chat gpt-4",
        "startTimeUnixNano": "1544712660000000000",
        "endTimeUnixNano": "1544712661000000000",
        "kind": 3,
        "attributes": attributes(values),
        **more,
    }


def traces(*spans: dict[str, Any]) -> dict[str, Any]:
    resource = {"attributes": attributes({"service.name": "my.service"})}
    scope = {"name": "my.library", "version": "1.0.0"}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": [*spans]}]}]}


GENAI = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.conversation.id": "conv_5j66UpCpwteGg4YSxUnt7lPY",
    "gen_ai.request.model": "gpt-4",
    "gen_ai.request.temperature": 0.0,
    "gen_ai.request.max_tokens": 200,
    "gen_ai.response.id": "chatcmpl-9J3uIL87gldCFtiIbyaOvTeYBRA3l",
    "gen_ai.response.model": "gpt-4-0613",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.usage.output_tokens": 52,
    "gen_ai.system_instructions": json.dumps(SYSTEM),
    "gen_ai.input.messages": json.dumps(INPUT),
    "gen_ai.output.messages": json.dumps(OUTPUT),
    "user.id": "u-7",
}
STRUCTURED = {
    **GENAI,
    "gen_ai.input.messages": INPUT,
    "gen_ai.output.messages": OUTPUT,
    "gen_ai.system_instructions": SYSTEM,
}
EVENT = {
    name: GENAI[name] for name in ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions")
}


@pytest.mark.parametrize(
    "sent",
    [
        span(GENAI),
        span(STRUCTURED),
        span(
            {name: value for name, value in GENAI.items() if name not in EVENT},
            events=[{"name": otel.EVENT, "timeUnixNano": "1544712660300000000", "attributes": attributes(EVENT)}],
        ),
    ],
    ids=["json text", "structured", "event"],
)
def test_a_span_becomes_an_output(sent):
    (raw,) = otel.items_of(sent)
    item = parse_completion_item(raw)
    call = {"name": "get_weather", "arguments": '{"location": "Paris"}'}
    assert item.prompt == [
        {"role": "system", "content": "You are a helpful bot."},
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rainy, 57°F"},
    ]
    assert item.completion == [{"role": "assistant", "content": SAID}]
    assert (item.model, item.finish_reason, item.subject) == ("gpt-4-0613", "stop", "u-7")
    assert item.sampling == {"temperature": 0.0, "max_tokens": 200}
    assert item.conversation_id == GENAI["gen_ai.conversation.id"]
    assert item.external_id == GENAI["gen_ai.response.id"]
    assert item.metadata == {"provider": "openai", "usage": {"output_tokens": 52}}


def test_traces_route(api, db):
    plain = {key: value for key, value in GENAI.items() if key != "gen_ai.response.id"}
    image = json.dumps([{"role": "user", "parts": [{"type": "blob", "mime_type": "image/png", "content": "aaaa"}]}])
    body = traces(
        span(GENAI),
        span({"http.request.method": "GET"}, spanId="EEE19B7EC3C1B175"),
        span({**plain, "gen_ai.input.messages": image}, spanId="EEE19B7EC3C1B176"),
        span({**plain, "gen_ai.input.messages": "["}, spanId="EEE19B7EC3C1B177"),
        span(plain, spanId="EEE19B7EC3C1B178"),
    )
    response = api.post("/api/v1/otel/v1/traces", json=body)
    assert response.status_code == 200
    partial = response.json()["partialSuccess"]
    assert partial["rejectedSpans"] == "2"
    assert "blob parts are not supported" in partial["errorMessage"]
    assert "1 spans without gen_ai messages were skipped" in partial["errorMessage"]
    names = select(Completion.external_id).order_by(Completion.id)
    assert db.scalars(names).all() == [GENAI["gen_ai.response.id"]], "the same answer is one output"


def test_traces_all_good_packed_and_refused(api):
    body = json.dumps(traces(span(GENAI))).encode()
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    for _ in range(2):
        sent = api.post("/api/v1/otel/v1/traces", content=gzip.compress(body), headers=headers)
        assert (sent.status_code, sent.json()) == (200, {})
    assert api.post("/api/v1/otel/v1/traces", content=b"\x1f\x8bx", headers=headers).status_code == 422
    assert api.post("/api/v1/otel/v1/traces", content=gzip.compress(body)[:-9], headers=headers).status_code == 422
    bomb = gzip.compress(b" " * 6_000_000)
    assert api.post("/api/v1/otel/v1/traces", content=bomb, headers=headers).status_code == 413
    packed = {**headers, "Content-Encoding": "br"}
    assert api.post("/api/v1/otel/v1/traces", content=body, headers=packed).status_code == 415
    binary = api.post("/api/v1/otel/v1/traces", content=b"\n", headers={"Content-Type": "application/x-protobuf"})
    assert binary.status_code == 415
    assert "http/json" in binary.json()["error"]["remedy"]
    bodies: list[Any] = [[], {}, {"resourceSpans": 1}, {"resourceSpans": [{"scopeSpans": [{"spans": ["x"]}]}]}]
    for wrong in bodies:
        assert api.post("/api/v1/otel/v1/traces", json=wrong).status_code == 422, wrong
    odd = span({}, attributes=[{"key": "gen_ai.input.messages", "value": {"intValue": "x"}}, {"key": 1}, "x"])
    assert api.post("/api/v1/otel/v1/traces", json=traces(odd)).json()["partialSuccess"]["rejectedSpans"] == "1"
