"""Messages of LibreChat with their thumbs: an exported conversation, or the messages of its database (mongoexport).

Fields after ``IMessage`` in LibreChat, ``packages/data-schemas/src/types/message.ts`` (``messageId``, ``parentMessageId``,
``conversationId``, ``isCreatedByUser``, ``text``, ``content``, ``model``, ``user``, ``feedback``), and ``feedback.rating``
(``thumbsUp`` or ``thumbsDown``), ``tag`` and ``text`` after ``packages/data-provider/src/feedback.ts``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.feedback.imports.join import Shelf
from app.feedback.imports.reading import Row, Source
from app.feedback.imports.records import records
from app.feedback.imports.values import Options, moment, name_of, thumb, without_nothing

_MAX_TURNS = 1000


def sniff(first: Mapping[str, Any]) -> float:
    if "messageId" in first and "isCreatedByUser" in first:
        return 1.0
    listed = first.get("messages") or first.get("messagesTree")
    nested = isinstance(listed, list) and bool(listed) and isinstance(listed[0], dict) and "messageId" in listed[0]
    return 1.0 if nested else 0.0


def rows(source: Source, options: Options) -> Iterator[Row]:
    """All messages go onto a shelf on disk first: an answer may stand anywhere before or after its question."""
    with Shelf() as shelf:
        for line, record in records(source):
            if isinstance(record, str):
                yield line, record
                continue
            for each in _messages(record):
                key = name_of(each.get("messageId"))
                if key is None:
                    yield line, "a message has no messageId"
                    continue
                shelf.put("message", key, each)
                if each.get("feedback") and not each.get("isCreatedByUser"):
                    shelf.put_later(line, key)
        for line, key in shelf.later():
            try:
                yield line, _item(shelf, key, options)
            except (ValueError, AttributeError, TypeError, KeyError) as error:
                yield line, str(error) if isinstance(error, ValueError) else "is no message of LibreChat"


def _messages(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    listed = record.get("messages") or record.get("messagesTree")
    if not isinstance(listed, list):
        yield record
        return
    waiting = list(listed)
    while waiting:
        each = waiting.pop()
        if not isinstance(each, dict):
            continue
        waiting.extend(each.pop("children", None) or [])
        yield {"conversationId": record.get("conversationId"), "model": record.get("model"), **each}


def _item(shelf: Shelf, key: str, options: Options) -> dict[str, Any]:
    answer = shelf.get("message", key)
    feedback = answer["feedback"]
    branch: list[dict[str, Any]] = []
    parent = name_of(answer.get("parentMessageId"))
    while parent and (found := shelf.get("message", parent)) and len(branch) < _MAX_TURNS:
        branch.append(found)
        parent = name_of(found.get("parentMessageId"))
    prompt = [
        {"role": "user" if each.get("isCreatedByUser") else "assistant", "content": _text(each)}
        for each in branch[::-1]
    ]
    if not prompt:
        raise ValueError("the question of this answer is not in the file")
    tag = feedback.get("tag")
    tag = tag.get("key") if isinstance(tag, dict) else tag
    return without_nothing(
        {
            "prompt": prompt,
            "completion": _text(answer),
            "label": thumb(feedback.get("rating"), options),
            "model": name_of(answer.get("model")),
            "rater": name_of(answer.get("user")),
            "reasons": [str(tag)[:100]] if tag else None,
            "comment": (feedback.get("text") or "")[:2000] or None,
            "conversation_id": name_of(answer.get("conversationId")),
            "completion_id": key,
            "finish_reason": answer.get("finish_reason"),
            "occurred_at": moment(answer.get("updatedAt") or answer.get("createdAt")),
        }
    )


def _text(each: dict[str, Any]) -> str:
    if each.get("text"):
        return str(each["text"])
    parts = []
    for part in each.get("content") or []:
        value = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        parts.append(value.get("value", "") if isinstance(value, dict) else value or "")
    return "".join(parts)
