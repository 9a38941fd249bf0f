"""Recognising an erased text wherever it was copied to: whole, in part, or inside another text.

A person's own words are found by any stretch of eight words, a model's by twenty: shorter ones of its phrases stand in many
answers and belong to nobody. Texts of fewer words are found as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app.core.ids import content_hash
from app.feedback.messages import messages_text

ERASED = "[erased]"
OWN_WORDS, MODEL_WORDS = 8, 20
_MIN_WHOLE = 8
_MIN_INSIDE = 20


class Traces:
    """What to look for. ``clean`` gives a value back without it, the same object where nothing was found."""

    def __init__(self) -> None:
        self._whole: set[str] = set()
        self._messages: set[str] = set()
        self._stretches: dict[int, set[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._whole or self._messages or self._stretches)

    def add_name(self, name: str) -> None:
        """Found only where it is all of a text."""
        self._whole.add(name)

    def add_own(self, text: str) -> None:
        self._add(text, OWN_WORDS)

    def add_model(self, text: str) -> None:
        self._add(text, MODEL_WORDS)

    def add_messages(self, messages: list[dict[str, Any]], *, skip: frozenset[str] = frozenset()) -> None:
        """A prompt or completion. ``skip``: texts of system messages that other prompts share."""
        self._messages.add(content_hash(messages))
        for message in messages:
            text = messages_text([message])
            if text and text not in skip:
                (self.add_model if message["role"] == "assistant" else self.add_own)(text)

    def _add(self, text: str, length: int) -> None:
        words = text.split()
        joined = " ".join(words)
        if len(joined) >= _MIN_WHOLE:
            self._whole.add(joined)
        if len(words) >= length:
            self._stretches.setdefault(length, set()).update(_hashes(words, length))
        elif length == OWN_WORDS and len(joined) >= _MIN_INSIDE:
            self._stretches.setdefault(len(words), set()).add(hash(joined))

    def touch(self, text: str) -> bool:
        words = text.split()
        if text in self._whole or " ".join(words) in self._whole:
            return True
        return any(not found.isdisjoint(_hashes(words, length)) for length, found in self._stretches.items())

    def clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return ERASED if self.touch(value) else value
        if isinstance(value, list):
            if value and self._is_messages(value) and content_hash(value) in self._messages:
                return [{"role": message["role"], "content": ERASED} for message in value]
            items = [self.clean(item) for item in value]
            return value if all(new is old for new, old in zip(items, value, strict=True)) else items
        if isinstance(value, dict):
            fresh = {key: self.clean(inner) for key, inner in value.items()}
            return value if all(fresh[key] is value[key] for key in value) else fresh
        return value

    @staticmethod
    def _is_messages(value: list[Any]) -> bool:
        return all(isinstance(item, dict) and "role" in item for item in value)


def _hashes(words: list[str], length: int) -> Iterable[int]:
    return (hash(" ".join(words[start : start + length])) for start in range(len(words) - length + 1))


def row_key(prompt: Any, completion: Any) -> str:
    """Of a completion in the database and of its row in a snapshot, which carries no id of ours."""
    return content_hash([prompt, completion])
