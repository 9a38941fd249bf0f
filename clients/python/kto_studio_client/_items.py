"""What is sent, as JSON text made at the moment of the call: what the app changes later does not change it."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Union

Messages = Union[str, Mapping[str, Any], Sequence[Mapping[str, Any]]]
SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "reasoning_effort",
    "response_format",
)
"""Of a chat-completions request: what says how the answer was generated."""


@dataclass(frozen=True)
class Item:
    """One thing to send. Several of one kind in a row travel in one request."""

    kind: str
    """completion, feedback or retract."""
    text: str
    """JSON; of a retraction the feedback's id."""


def new_id() -> str:
    return uuid.uuid4().hex


def feedback_id(completion_id: str, rater: str | None) -> str:
    """One rater's feedback on one output has one id, in every process: a retry never doubles, a second click replaces."""
    return "kc-" + hashlib.sha256(json.dumps([completion_id, rater]).encode()).hexdigest()[:40]


def pack(kind: str, values: Mapping[str, Any]) -> Item:
    """Raises TypeError or ValueError for what JSON does not hold."""
    said = {name: value for name, value in values.items() if value is not None}
    return Item(kind, json.dumps(said, allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return in_utc(value)
    for name in ("model_dump", "to_dict", "dict"):  # answers of the openai package and of others
        convert = getattr(value, name, None)
        if callable(convert):
            return convert()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    raise TypeError(f"{type(value).__name__} is nothing that JSON holds")


def in_utc(at: datetime | None) -> str:
    """Without a time zone it is local time; None is now."""
    return (at or datetime.now(timezone.utc)).astimezone(timezone.utc).isoformat()


def messages_of(value: Messages, role: str) -> Any:
    """One message alone may stand for a list of one; text stays text."""
    if isinstance(value, Mapping):
        return [{"role": role, **value}]
    return value


def from_openai(request: Any, response: Any) -> list[dict[str, Any]]:
    """One output for every choice. Raises TypeError, KeyError or ValueError where the pair is not of that shape."""
    asked, answered = _as_dict(request), _as_dict(response)
    choices = answered["choices"]
    if not choices:
        raise ValueError("the response has no choices")
    sampling = {name: asked[name] for name in SAMPLING if asked.get(name) is not None}
    base = answered.get("id") or new_id()
    outputs = []
    for position, choice in enumerate(choices):
        message = {name: value for name, value in choice["message"].items() if value is not None or name == "content"}
        number = choice.get("index", position)
        outputs.append(
            {
                "prompt": asked["messages"],
                "completion": [{"role": "assistant", **message}],
                "model": answered.get("model") or asked.get("model"),
                "sampling": sampling or None,
                "finish_reason": choice.get("finish_reason"),
                "external_id": base if len(choices) == 1 else f"{base}:{number}",
                "subject": asked.get("safety_identifier") or asked.get("user"),
            }
        )
    return outputs


def _as_dict(value: Any) -> dict[str, Any]:
    """Through JSON, so that the openai package's objects and plain dictionaries are one thing."""
    found = json.loads(json.dumps(value, default=_plain))
    if not isinstance(found, dict):
        raise TypeError("a request and a response are objects")
    return found
