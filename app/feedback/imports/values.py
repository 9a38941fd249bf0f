"""What several importers need: options, thumbs, texts and messages out of other products' fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from app.feedback.labels import parse_label

_MORE_UP = {"accept", "accepted", "correct", "helpful", "approve", "approved", "chosen", "thumbs up"}
_MORE_DOWN = {"reject", "rejected", "incorrect", "unhelpful", "not helpful", "disapprove", "thumbs down"}


@dataclass(frozen=True)
class Options:
    """What a person may tell an importer."""

    mapping: Mapping[str, str] = field(default_factory=dict)
    """Field of an item -> column of the file."""
    delimiter: str = ""
    """Of CSV; empty: found out."""
    encoding: str = ""
    """Of CSV; empty: found out."""
    question: str = ""
    """Only this score, feedback key, question or control counts."""
    up: str = ""
    down: str = ""
    """Words of the file that mean desirable and undesirable, separated by commas."""

    def as_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Options:
        return cls(**{key: value for key, value in data.items() if key in cls.__dataclass_fields__})


def thumb(value: Any, options: Options) -> bool:
    """Raises ValueError for what is neither."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _words(options.up):
            return True
        if word in _words(options.down):
            return False
        if not _words(options.up) and word in _MORE_UP:
            return True
        if not _words(options.down) and word in _MORE_DOWN:
            return False
        if word in ("1.0", "0.0", "-1.0"):
            return word == "1.0"
    return parse_label(value)


def _words(listed: str) -> set[str]:
    return {word.strip().lower() for word in listed.split(",") if word.strip()}


def moment(value: Any) -> str | None:
    """ISO text with a zone, of seconds, milliseconds or ISO text (without a zone: UTC); None for what is none."""
    if isinstance(value, dict) and "$date" in value:  # as MongoDB's tools write dates
        value = value["$date"]
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            while value > 1e11:  # milliseconds, microseconds or nanoseconds
                value /= 1000
            return datetime.fromtimestamp(value, UTC).isoformat()
        if isinstance(value, str) and value:
            found = datetime.fromisoformat(value.replace(" UTC", "+00:00"))
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat()
    except (ValueError, OverflowError, OSError):
        return None
    return None


def name_of(value: Any) -> str | None:
    """An id or a name as short text; None for none. MongoDB's tools write ids as {"$oid": …}."""
    if isinstance(value, dict):
        value = value.get("$oid") or value.get("id") or value.get("email") or value.get("name")
    return str(value)[:200] if value not in (None, "") else None


def as_json(value: Any) -> Any:
    """JSON that stands in a string is read; all else stays."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def plain(value: Any) -> str:
    """Text of a message's content: a string, or the text parts of a list."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(part if isinstance(part, str) else str(part.get("text") or "") for part in value if part)
    return "" if value is None else json.dumps(value, ensure_ascii=False)


_ROLES = {"human": "user", "ai": "assistant", "bot": "assistant", "model": "assistant"}
_KEPT = ("role", "content", "tool_calls", "tool_call_id", "name")


def message(value: Any) -> dict[str, Any] | None:
    """A chat message as we store it, out of OpenAI's form or LangChain's (also serialised); None for none."""
    if not isinstance(value, dict):
        return None
    if isinstance(
        value.get("kwargs"), dict
    ):  # LangChain's serialised form: {"lc": 1, "id": [… "HumanMessage"], "kwargs"}
        kind = str((value.get("id") or [""])[-1]).removesuffix("Chunk").removesuffix("Message").lower()
        value = {"role": kind, **value["kwargs"]}
    elif isinstance(value.get("data"), dict) and "type" in value:
        value = {"role": value["type"], **value["data"]}
    role = value.get("role") or value.get("type")
    if not isinstance(role, str) or "content" not in value:
        return None
    kept = {key: value[key] for key in _KEPT if value.get(key) not in (None, [])}
    kept["role"] = _ROLES.get(role, role)
    if not kept.get("tool_calls"):
        kept["content"] = plain(value["content"])
    return kept


def messages_of(value: Any) -> list[dict[str, Any]]:
    """Chat messages that lie in ``value``: a list, or an object with messages, choices or generations. Empty: none."""
    value = as_json(value)
    if isinstance(value, dict):
        for key in ("messages", "input", "output", "message", "choices", "generations"):
            if key in value and (found := messages_of(value[key])):
                return found
        found_one = message(value)
        return [found_one] if found_one else []
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], list):
            return messages_of(value[0])
        if value and isinstance(value[0], dict) and "message" in value[0]:
            return messages_of(value[0]["message"])
        each = [message(item) for item in value]
        return [item for item in each if item] if all(each) else []
    return []


_TEXT_KEYS = ("input", "output", "question", "query", "prompt", "text", "content", "answer", "completion", "response")


def dialogue_of(value: Any) -> list[dict[str, Any]] | str:
    """Messages where there are any, else the text: of a string, or of the one telling field of an object."""
    if found := messages_of(value):
        return found
    value = as_json(value)
    if isinstance(value, dict):
        for key in _TEXT_KEYS:
            if isinstance(value.get(key), str):
                return str(value[key])
        strings = [item for item in value.values() if isinstance(item, str)]
        if len(strings) == 1:
            return strings[0]
    return plain(value)


def split_answer(prompt: Any, answer: Any) -> tuple[Any, Any]:
    """Prompt and completion; where the answer repeats the whole conversation, only its end is the completion."""
    asked, said = dialogue_of(prompt), dialogue_of(answer)
    if isinstance(said, list) and said and said[0]["role"] != "assistant":
        last = max((n for n, item in enumerate(said) if item["role"] == "user"), default=-1)
        if not isinstance(asked, list):
            asked = said[: last + 1]
        said = said[last + 1 :]
    return asked, said


def without_nothing(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if value is not None}
