"""What apps log already, taken as outputs: chat-completions pairs and OpenTelemetry traces."""

from __future__ import annotations

import zlib
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.core.db import Db
from app.core.errors import InvalidError, TooLargeError, UnsupportedMediaError
from app.feedback import openai_logs, otel
from app.feedback.api_completions import answer_batch, store_completions
from app.feedback.api_parts import MAX_BATCH, Body, Writer, body_of, read_json, source_of
from app.feedback.idempotency import Answer, once
from app.feedback.schemas import MESSAGE_SCHEMA, BatchResult, CompletionItem, ItemResult, parse_completion_item
from app.settings import get_settings
from app.web.openapi import BEARER, error_answers

router = APIRouter(prefix="/api/v1", tags=["completions"], dependencies=[BEARER])

_ANYTHING = {"type": "object", "additionalProperties": True}
_PAIR: dict[str, Any] = {
    "type": "object",
    "required": ["request", "response"],
    "additionalProperties": False,
    "properties": {
        "request": {
            **_ANYTHING,
            "required": ["messages"],
            "properties": {"messages": {"type": "array", "items": MESSAGE_SCHEMA}},
            "description": "The chat-completions request: messages, model, temperature, tools, user, …",
        },
        "response": {
            "anyOf": [_ANYTHING, {"type": "array", "items": _ANYTHING}],
            "description": "The chat.completion, or its streamed chunks in order.",
        },
        "category": {"type": "string"},
        "conversation_id": {"type": "string"},
        "subject": {
            "type": "string",
            "description": "The person who asked; else the request's safety_identifier or user.",
        },
        "metadata": _ANYTHING,
    },
}
_SCHEMA = {"anyOf": [_PAIR, {"type": "array", "minItems": 1, "maxItems": MAX_BATCH, "items": _PAIR}]}
EXAMPLE_PAIR: dict[str, Any] = {
    "request": {
        "model": "helpdesk-7",
        "messages": [{"role": "user", "content": "How long does a refund take?"}],
        "temperature": 0.7,
        "user": "customer-81",
    },
    "response": {
        "id": "chatcmpl-5521",
        "object": "chat.completion",
        "created": 1760000000,
        "model": "helpdesk-7",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "3 to 5 working days.", "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 13, "completion_tokens": 8, "total_tokens": 21},
    },
    "category": "refund timing",
}


@router.post(
    "/completions/openai",
    summary="Send chat-completions calls as they were logged",
    responses={200: {"model": BatchResult}, **error_answers(409, 413, 415, 422)},
    openapi_extra=body_of(_SCHEMA, EXAMPLE_PAIR),
)
def send_openai(request: Request, db: Db, holder: Writer, body: Body) -> Response:
    """One request with its response, or a list of them. Every choice is an output; its id is the response's, with `:0`, `:1`, …
    where there are several. Streamed chunks are put together. The Responses API and other shapes are refused by name.
    """
    pairs = body if isinstance(body, list) else [body]
    if not 1 <= len(pairs) <= MAX_BATCH:
        raise InvalidError("The batch does not fit.", fields={"body": f"1 to {MAX_BATCH:,} calls"})
    items: list[Any] = []
    for pair in pairs:
        try:
            items += openai_logs.items_of(pair)
        except InvalidError as error:
            items.append(error)
    if len(items) > MAX_BATCH:
        raise InvalidError("The batch does not fit.", fields={"body": f"at most {MAX_BATCH:,} choices"})
    return answer_batch(db, holder, request, body, items, _parse)


def _parse(item: Any) -> CompletionItem:
    if isinstance(item, InvalidError):
        raise item
    return parse_completion_item(item)


_TRACES: dict[str, Any] = {
    "type": "object",
    "required": ["resourceSpans"],
    "properties": {"resourceSpans": {"type": "array", "items": _ANYTHING}},
    "description": "OTLP's ExportTraceServiceRequest as JSON.",
}
_PARTIAL: dict[str, Any] = {
    "description": "Taken. `partialSuccess` counts refused spans, and says what was skipped.",
    "content": {"application/json": {"schema": {"type": "object", "properties": {"partialSuccess": _ANYTHING}}}},
}


def _text(value: str) -> dict[str, Any]:
    return {"stringValue": value}


EXAMPLE_TRACES: dict[str, Any] = {
    "resourceSpans": [
        {
            "scopeSpans": [
                {
                    "spans": [
                        {
                            "traceId": "5b8efff798038103d269b633813fc60c",
                            "spanId": "eee19b7ec3c1b174",
                            "name": "chat helpdesk-7",
                            "attributes": [
                                {"key": "gen_ai.operation.name", "value": _text("chat")},
                                {"key": "gen_ai.response.model", "value": _text("helpdesk-7")},
                                {"key": "gen_ai.response.id", "value": _text("chatcmpl-5521")},
                                {
                                    "key": "gen_ai.input.messages",
                                    "value": _text(
                                        '[{"role":"user","parts":[{"type":"text","content":"How long does a refund take?"}]}]'
                                    ),
                                },
                                {
                                    "key": "gen_ai.output.messages",
                                    "value": _text(
                                        '[{"role":"assistant","parts":[{"type":"text","content":"3 to 5 working days."}],'
                                        '"finish_reason":"stop"}]'
                                    ),
                                },
                            ],
                        }
                    ]
                }
            ]
        }
    ]
}


def _unpacked(request: Request, body: bytes) -> bytes:
    """Raises TooLargeError where a packed body holds too much, InvalidError where it is damaged."""
    kind = request.headers.get("content-encoding", "identity").strip().lower()
    if kind in {"identity", ""}:
        return body
    if kind != "gzip":
        raise UnsupportedMediaError(f"The body is packed with {kind}.", remedy="Send it plain, or with gzip.")
    limit = get_settings().max_request_bytes
    stream = zlib.decompressobj(31)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error:
        raise InvalidError("The traces do not fit.", fields={"body": "is no gzip"}) from None
    if len(plain) > limit:
        raise TooLargeError(
            f"The unpacked body is larger than {limit // 2**20} MiB.", remedy="Send fewer spans at once."
        )
    if not stream.eof:
        raise InvalidError("The traces do not fit.", fields={"body": "is a gzip that ends too early"})
    return plain


async def _traces(request: Request) -> Any:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaError(
            f"The body is {kind or 'of no declared type'}.",
            remedy="Set the exporter's protocol to http/json: OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json.",
        )
    body = _unpacked(request, await request.body())
    return await run_in_threadpool(read_json, body)


@router.post(
    "/otel/v1/traces",
    summary="Send OpenTelemetry traces",
    responses={200: _PARTIAL, **error_answers(409, 413, 415, 422)},
    openapi_extra=body_of(_TRACES, EXAMPLE_TRACES),
)
async def send_traces(request: Request, db: Db, holder: Writer) -> Response:
    """OTLP/HTTP with JSON, plain or gzip. Spans with `gen_ai.input.messages` and `gen_ai.output.messages` become outputs, the
    others are skipped. The output's id is `gen_ai.response.id`, else `<trace id>-<span id>`.
    """
    body = await _traces(request)

    def work() -> Answer:
        return Answer(200, _store_spans(db, holder, body))

    answer = await run_in_threadpool(once, db, holder.project.id, source_of(holder.key), request, body, work)
    return answer.response()


def _store_spans(db: Any, holder: Any, body: Any) -> dict[str, Any]:
    good: list[tuple[int, CompletionItem]] = []
    refused: list[str] = []
    skipped = 0
    for span in otel.spans_of(body):
        try:
            items = [parse_completion_item(item) for item in otel.items_of(span)]
        except ValueError as error:
            refused.append(f"span {span.get('spanId')}: {error}")
            continue
        except InvalidError as error:
            said = "; ".join(f"{name}: {why}" for name, why in error.fields.items())
            refused.append(f"span {span.get('spanId')}: {said}")
            continue
        skipped += not items
        good += [(len(good) + place, item) for place, item in enumerate(items)]
    if len(good) > MAX_BATCH:
        raise InvalidError("The traces do not fit.", fields={"body": f"at most {MAX_BATCH:,} outputs in one export"})
    results: list[ItemResult] = store_completions(db, holder, good, []).items
    refused += [f"{each.fields}" for each in results if each.status == "error"]
    words = refused[:5] + ([f"{skipped} spans without gen_ai messages were skipped"] if skipped else [])
    if not words:
        return {}
    return {"partialSuccess": {"rejectedSpans": str(len(refused)), "errorMessage": "; ".join(words)[:2000]}}
