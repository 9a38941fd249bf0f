"""Feedback of Open WebUI, as its page Evaluations exports it: a JSON array of feedback records.

Fields after ``FeedbackModel`` and its forms in open-webui, ``backend/open_webui/models/feedbacks.py``: ``data.rating`` (1 or
-1), ``data.model_id``, ``data.reason``, ``data.comment``, ``meta.chat_id``, ``meta.message_id`` and ``snapshot.chat``, the
conversation as it was, its messages in ``chat.history.messages`` by id with ``parentId``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.feedback.imports.reading import Row, Source
from app.feedback.imports.records import records
from app.feedback.imports.values import Options, moment, name_of, plain, thumb, without_nothing


def sniff(first: Mapping[str, Any]) -> float:
    if isinstance(first.get("snapshot"), dict) and isinstance(first.get("data"), dict):
        return 1.0
    return 0.9 if first.get("type") == "rating" and "meta" in first and isinstance(first.get("data"), dict) else 0.0


def rows(source: Source, options: Options) -> Iterator[Row]:
    for line, record in records(source):
        if isinstance(record, str):
            yield line, record
            continue
        try:
            yield line, _item(record, options)
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            yield line, str(error) if isinstance(error, ValueError) else "is no feedback record of Open WebUI"


def _item(record: dict[str, Any], options: Options) -> dict[str, Any]:
    data, meta = record.get("data") or {}, record.get("meta") or {}
    if data.get("rating") in (None, ""):
        raise ValueError("has no rating")
    chat = ((record.get("snapshot") or {}).get("chat")) or {}
    inner = chat.get("chat") or chat
    if not inner:
        raise ValueError("has no snapshot of its chat; export it again with the chats kept")
    branch = _branch(inner, meta.get("message_id"))
    answer = branch[-1]
    prompt = [{"role": part["role"], "content": plain(part.get("content"))} for part in branch[:-1]]
    if system := inner.get("system") or (inner.get("params") or {}).get("system"):
        prompt.insert(0, {"role": "system", "content": system})
    reasons = [data["reason"]] if data.get("reason") else [str(tag) for tag in data.get("tags") or []]
    return without_nothing(
        {
            "prompt": prompt,
            "completion": plain(answer.get("content")),
            "label": thumb(data["rating"], options),
            "model": name_of(data.get("model_id") or answer.get("model")),
            "rater": name_of(record.get("user_id")),
            "reasons": reasons[:20] or None,
            "comment": (data.get("comment") or "")[:2000] or None,
            "conversation_id": name_of(meta.get("chat_id")),
            "completion_id": name_of(meta.get("message_id")),
            "external_id": name_of(record.get("id")),
            "occurred_at": moment(record.get("updated_at") or record.get("created_at")),
            "metadata": without_nothing({"arena": meta.get("arena"), "details": data.get("details")}),
        }
    )


def _branch(chat: dict[str, Any], message_id: Any) -> list[dict[str, Any]]:
    """The rated message and what led to it, oldest first."""
    by_id = (chat.get("history") or {}).get("messages") or {item["id"]: item for item in chat.get("messages") or []}
    if message_id not in by_id:
        raise ValueError("the rated message is not in the snapshot of its chat")
    found: list[dict[str, Any]] = []
    listed = chat.get("messages") or []
    if "parentId" not in by_id[message_id] and listed:
        place = next(number for number, item in enumerate(listed) if item.get("id") == message_id)
        return list(listed[: place + 1])
    current = message_id
    while current in by_id and len(found) <= len(by_id):
        found.append(by_id[current])
        current = by_id[current].get("parentId")
    return found[::-1]
