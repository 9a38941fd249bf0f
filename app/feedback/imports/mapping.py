"""Tables: which column is which field. TRL's forms are tables too.

Forms of TRL, as its page "Dataset formats" describes them (huggingface.co/docs/trl/dataset_formats): unpaired preference
(``prompt, completion, label``) and preference (``prompt, chosen, rejected``, or with the prompt at the beginning of both),
each with texts or with lists of messages. A pair gives two rows, a desirable and an undesirable one, that name it in their
metadata (``pair``, ``pair_side``).
"""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.feedback.imports.reading import Row
from app.feedback.imports.values import Options, as_json, moment, thumb
from app.feedback.schemas import FeedbackItem

PAIR = ("chosen", "rejected")
LABELS = {
    "prompt": "Prompt",
    "completion": "Completion",
    "label": "Label",
    "chosen": "Chosen (of a pair)",
    "rejected": "Rejected (of a pair)",
    "rater": "Rater",
    "category": "Category",
    "model": "Model",
    "comment": "Comment",
    "reasons": "Reasons",
    "correction": "Correction",
    "subject": "Person who asked",
    "conversation_id": "Conversation",
    "completion_id": "Id of the output",
    "external_id": "Id of the feedback",
    "finish_reason": "Finish reason",
    "occurred_at": "Time",
}
FIELDS = tuple(name for name in LABELS if name in PAIR or name in FeedbackItem.model_fields)
_ALSO = {
    "prompt": ("question", "input", "instruction", "query", "user", "user_message", "request"),
    "completion": ("answer", "response", "output", "assistant", "reply", "generation", "assistant_message"),
    "label": ("rating", "feedback", "thumb", "thumbs", "vote", "score", "verdict", "value", "liked", "is_good"),
    "chosen": ("preferred", "accepted", "winner"),
    "rejected": ("dispreferred", "loser"),
    "rater": ("user_id", "annotator", "rated_by", "author", "reviewer", "who"),
    "category": ("topic", "intent", "domain", "task", "tag"),
    "model": ("model_name", "model_id", "llm"),
    "comment": ("comments", "note", "notes", "explanation", "rationale"),
    "reasons": ("reason", "tags"),
    "conversation_id": ("conversation", "chat_id", "session_id", "thread_id"),
    "completion_id": ("message_id", "output_id", "response_id"),
    "external_id": ("feedback_id",),
    "finish_reason": ("stop_reason",),
    "occurred_at": ("created_at", "timestamp", "time", "date", "rated_at"),
}
_UNESCAPED = tuple("'" + sign for sign in "=+-@\t\r")


def _key(name: str) -> str:
    return "_".join(name.strip().lower().replace("-", " ").replace(".", " ").split())


def guess(columns: Iterable[str]) -> dict[str, str]:
    """Field -> column, by the columns' names."""
    names: dict[str, str] = {}
    for column in columns:
        names.setdefault(_key(column), column)
    found = {name: names[name] for name in FIELDS if name in names}
    taken = set(found.values())
    for name in FIELDS:
        if name in found or (name in PAIR and "completion" in found) or (name == "completion" and "chosen" in found):
            continue
        free = next((names[other] for other in _ALSO.get(name, ()) if names.get(other) not in (None, *taken)), None)
        if free is not None:
            found[name] = free
            taken.add(free)
    return found


def shape(mapping: Mapping[str, str]) -> str:
    """In words, for the page."""
    if all(name in mapping for name in PAIR):
        return "pairs: each row gives a desirable and an undesirable one"
    return "one completion a row" if "completion" in mapping else "unknown columns"


def table_rows(table: Iterable[tuple[int, dict[str, Any] | str]], options: Options, *, texts: bool) -> Iterator[Row]:
    """Items of rows; ``texts``: all cells are strings, as in CSV."""
    mapping = dict(options.mapping)
    guessed: dict[frozenset[str], dict[str, str]] = {}
    for line, row in table:
        if isinstance(row, str):
            yield line, row
            continue
        used = mapping or guessed.get(frozenset(row)) or guess(row)
        if not mapping and len(guessed) < 1000:
            guessed[frozenset(row)] = used
        try:
            item = _item(row, used, options, texts=texts)
        except ValueError as error:
            yield line, str(error)
            continue
        if any(name in item for name in PAIR):
            yield from _pair(line, item)
        else:
            yield line, item


def _item(row: Mapping[str, Any], mapping: Mapping[str, str], options: Options, *, texts: bool) -> dict[str, Any]:
    """Fields by the mapping; columns that are none become metadata."""
    return _with_metadata(_mapped(row, mapping, options, texts=texts), row, set(mapping.values()), texts=texts)


def _mapped(row: Mapping[str, Any], mapping: Mapping[str, str], options: Options, *, texts: bool) -> dict[str, Any]:
    item: dict[str, Any] = {}
    for name, column in mapping.items():
        value = row.get(column)
        if texts:
            value = _cell(name, value)
        if value is None:
            continue
        if name == "label":
            try:
                value = thumb(value, options)
            except ValueError as error:
                raise ValueError(f"label: {error}") from None
        elif name == "occurred_at":
            value = moment(value) or value
        elif name in ("rater", "model", "category", "conversation_id", "completion_id", "external_id", "subject"):
            value = str(value) if isinstance(value, (int, float)) else value
        item[name] = value
    return item


def _with_metadata(item: dict[str, Any], row: Mapping[str, Any], used: set[str], *, texts: bool) -> dict[str, Any]:
    others = {key: value for key, value in row.items() if key not in used and key != "metadata"}
    for name in ("sampling", *(() if "metadata" in used else ("metadata",))):
        value = as_json(row[name]) if name in row else None
        others.pop(name, None)
        if isinstance(value, dict):
            item[name] = value
        elif value not in (None, ""):
            others[name] = value
    if texts:
        others = {key: value for key, value in others.items() if value not in (None, "")}
    if others:
        known = item.get("metadata", {})
        twice = sorted(set(others) & set(known))
        if twice:
            raise ValueError(f"{twice[0]}: stands both beside metadata and in it")
        item["metadata"] = {**others, **known}
    return item


def _cell(name: str, value: Any) -> Any:
    """A cell of CSV: empty is nothing; a list of messages is one; the sign that spreadsheets need is taken off again."""
    if value is None or value == "":
        return None
    text = str(value)
    if text.startswith(_UNESCAPED):
        text = text[1:]
    if name == "reasons":
        listed = as_json(text)
        return listed if isinstance(listed, list) else [part.strip() for part in text.split(";") if part.strip()]
    if name in ("prompt", "completion", "correction", *PAIR) and text.startswith("[{"):
        found = as_json(text)
        return found if isinstance(found, list) else text
    return text


def _pair(line: int, item: dict[str, Any]) -> Iterator[Row]:
    chosen, rejected = item.pop("chosen", None), item.pop("rejected", None)
    item.pop("label", None)
    if chosen is None or rejected is None:
        yield line, f"{'chosen' if chosen is None else 'rejected'}: is missing; a pair has both"
        return
    if item.get("prompt") in (None, "", []):
        item["prompt"], chosen, rejected = _common(chosen, rejected)
    elif isinstance(item["prompt"], list):
        chosen, rejected = _rest(item["prompt"], chosen), _rest(item["prompt"], rejected)
    names: dict[str, Any] = {name: item.pop(name) for name in ("completion_id", "external_id") if name in item}
    for side, completion in (("chosen", chosen), ("rejected", rejected)):
        metadata = {
            **item.get("metadata", {}),
            "pair": str(item.get("metadata", {}).get("pair", line)),
            "pair_side": side,
        }
        own: dict[str, Any] = {name: f"{value}:{side}" for name, value in names.items()}
        yield line, {**item, **own, "completion": completion, "label": side == "chosen", "metadata": metadata}


def _rest(prompt: list[Any], answer: Any) -> Any:
    """Some data sets repeat the prompt in front of each answer."""
    if isinstance(answer, list) and len(answer) > len(prompt) and answer[: len(prompt)] == prompt:
        return answer[len(prompt) :]
    return answer


def _common(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Without a prompt: what both begin with, up to the last turn (messages) or the last whole word (text)."""
    if isinstance(chosen, list) and isinstance(rejected, list):
        length = 0
        while length < min(len(chosen), len(rejected)) and chosen[length] == rejected[length]:
            length += 1
        while length and isinstance(chosen[length - 1], dict) and chosen[length - 1].get("role") == "assistant":
            length -= 1
        return chosen[:length], chosen[length:], rejected[length:]
    shared = os.path.commonprefix([str(chosen), str(rejected)])  # noqa: RUF071 -- texts, not paths
    marker = shared.rfind("Assistant:")
    length = marker + len("Assistant:") if marker >= 0 else shared.rfind(" ")
    length = max(length, 0)
    return str(chosen)[:length], str(chosen)[length:], str(rejected)[length:]
