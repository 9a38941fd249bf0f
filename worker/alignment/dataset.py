"""From snapshot rows to token ids: read, render the chat template, find the boundary, cut to length.

Prompt and completion are rendered together and tokenised once; the completion starts where the tokens of the prompt
alone (with the generation prompt) stop agreeing with the tokens of both. A prompt that is too long loses its left part
after the system message; the completion is never cut, a row whose completion does not fit is skipped and reported. A
completion that ran into its token limit gets no end-of-sequence target: that would teach stopping mid-sentence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.alignment.errors import DataError, ModelError

IntArray = NDArray[np.int64]

DEFAULT_CHAT_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{{ message['role'] + ': ' + (message['content'] or '') }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""For a tokenizer without a template: ``role: content`` lines, each answer closed by the end-of-sequence token."""


class Pair(NamedTuple):
    """What a log-probability is asked for: log p(completion | prompt)."""

    prompt_ids: IntArray
    completion_ids: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    id: int
    pair: Pair
    label: bool
    """True = desirable."""
    category: str | None
    root: str
    prompt_key: str
    """Hash of the prompt's messages: the unit of clusters, and what KL partners must differ in."""
    messages: list[dict[str, Any]]
    """The prompt."""

    @property
    def num_tokens(self) -> int:
        return len(self.pair.prompt_ids) + len(self.pair.completion_ids)


class SkippedRow(NamedTuple):
    id: int
    reason: str
    is_too_long: bool = False
    """It does not fit into max_length, whatever is cut from its prompt."""


class Split(NamedTuple):
    rows: list[Row]
    skipped: list[SkippedRow]


def load_split(
    path: Path,
    tokenizer: Any,
    *,
    max_length: int,
    end_ids: Iterable[int] = (),
    on_row: Callable[[], None] = lambda: None,
) -> Split:
    """Read and tokenise one JSON-lines file of a snapshot. Raises DataError on a line that is not a row.

    ``on_row`` is called before each row: what it raises ends the reading.
    """
    encoder = Encoder(tokenizer, max_length=max_length, end_ids=end_ids)
    rows: list[Row] = []
    skipped: list[SkippedRow] = []
    for number, record in enumerate(_records(path), 1):
        on_row()
        try:
            result = encoder.encode(record)
        except KeyError as error:
            raise DataError(f"{path.name} line {number} is not a snapshot row: it has no {error.args[0]}") from error
        except (TypeError, ValueError) as error:
            raise DataError(f"{path.name} line {number} is not a snapshot row: {error}") from error
        (rows if isinstance(result, Row) else skipped).append(result)  # type: ignore[arg-type]
    return Split(rows, skipped)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The snapshot's manifest.json: ``hash`` and ``counts``."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return {"hash": str(manifest["hash"]), **manifest}
    except OSError as error:
        raise DataError(f"The snapshot folder {folder} has no readable manifest.json: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"The manifest.json of {folder} is not an object with hash and counts") from error


def _records(path: Path) -> Iterable[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except ValueError as error:
                        raise DataError(f"{path.name} line {number} is not JSON: {error}") from error
    except OSError as error:
        raise DataError(f"The snapshot has no readable {path.name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def chat_template(tokenizer: Any) -> str | None:
    """What to pass as ``chat_template=``: None keeps the tokenizer's own, else the documented default."""
    return None if tokenizer.chat_template else DEFAULT_CHAT_TEMPLATE


class Encoder:
    """Turns snapshot records into rows. ``end_ids``: further end-of-turn tokens, as in generation_config.json."""

    def __init__(self, tokenizer: Any, *, max_length: int, end_ids: Iterable[int] = ()) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError("The tokenizer has no end-of-sequence token; set eos_token in tokenizer_config.json.")
        self._tokenizer = tokenizer
        self._template = chat_template(tokenizer)
        self._max_length = max_length
        self._end_ids = {int(tokenizer.eos_token_id), *end_ids}

    def encode(self, record: dict[str, Any]) -> Row | SkippedRow:
        row_id, prompt, completion = _checked(record)
        try:
            prompt_ids, completion_ids = self._tokenise(prompt, completion, cut=record.get("finish_reason") == "length")
            prompt_ids, reason = self._fit(prompt, prompt_ids, len(completion_ids))
        except Exception as error:  # a template may raise anything, jinja2's own errors included
            return SkippedRow(row_id, f"the chat template refused it: {error}")
        if reason:
            return SkippedRow(row_id, reason, is_too_long=len(completion_ids) > 0 < len(prompt_ids))
        return Row(
            id=row_id,
            pair=Pair(np.asarray(prompt_ids, dtype=np.int64), np.asarray(completion_ids, dtype=np.int64)),
            label=record["label"],
            category=record.get("category"),
            root=str(record["root"]),
            prompt_key=hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:32],
            messages=prompt,
        )

    def prompt_ids(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Tokens of a prompt with the generation prompt, as generation starts from it."""
        return self._ids(self._render(messages, generate=True))

    def sampling_ids(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """The same cut to ``max_length`` like a training row; empty where even the system message is longer."""
        prompt_ids, reason = self._fit(list(messages), self.prompt_ids(messages), 1)
        return [] if reason else prompt_ids

    def _render(self, messages: Sequence[dict[str, Any]], *, generate: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generate, chat_template=self._template
        )
        return text

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]  # the template wrote the specials
        return ids

    def _tokenise(
        self, prompt: list[dict[str, Any]], completion: list[dict[str, Any]], *, cut: bool
    ) -> tuple[list[int], list[int]]:
        text, opening = self._render([*prompt, *completion], generate=False), self._render(prompt, generate=True)
        content = completion[-1].get("content")
        if cut and isinstance(content, str) and (start := text.find(content, common_prefix(opening, text))) >= 0:
            text = text[: start + len(content)]
        ids, start_ids = self._ids(text), self._ids(opening)
        boundary = common_prefix(start_ids, ids)
        completion_ids = ids[boundary:]
        last_end = max((i for i, token in enumerate(completion_ids) if token in self._end_ids), default=-1)
        closes = last_end >= 0 and not self._tokenizer.decode(completion_ids[last_end + 1 :]).strip()
        if cut:  # a template without the text in it (a tool call): drop what closes the turn
            completion_ids = completion_ids[:last_end] if closes else completion_ids
        elif closes:  # what a template writes after the end of the turn is never generated
            completion_ids = completion_ids[: last_end + 1]
        else:
            completion_ids = [*completion_ids, int(self._tokenizer.eos_token_id)]
        return ids[:boundary], completion_ids

    def _fit(self, prompt: list[dict[str, Any]], prompt_ids: list[int], completion: int) -> tuple[list[int], str]:
        """Cut the prompt's left to the room beside the completion; a reason where that is impossible."""
        if completion == 0:
            return prompt_ids, "the completion is empty"
        if not prompt_ids:
            return prompt_ids, "the prompt has no tokens"
        room = self._max_length - completion
        if len(prompt_ids) <= room:
            return prompt_ids, ""
        if room < 1:
            return prompt_ids, f"the completion has {completion} tokens, max_length is {self._max_length}"
        head = self._head(prompt, prompt_ids)
        if len(head) >= room:
            return (
                prompt_ids,
                f"the prompt's fixed beginning ({len(head)} tokens) and the completion ({completion}) exceed max_length",
            )
        return head + prompt_ids[len(prompt_ids) - (room - len(head)) :], ""

    def _head(self, prompt: list[dict[str, Any]], prompt_ids: list[int]) -> list[int]:
        """What every prompt with this system message starts with: two renderings that differ in the user's text only."""
        system = [message for message in prompt[:1] if message.get("role") == "system"]
        a, b = (self.prompt_ids([*system, {"role": "user", "content": text}]) for text in ("Alpha", "9"))
        return prompt_ids[: min(common_prefix(a, b), common_prefix(a, prompt_ids))]


def _checked(record: Any) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    """Id, prompt and completion of a snapshot row. Raises KeyError, and TypeError with a sentence."""
    if not isinstance(record, dict):
        raise TypeError("it must be an object")
    if not isinstance(record["id"], int):
        raise TypeError("id must be a whole number")
    if not isinstance(record["label"], bool):
        raise TypeError("label must be true or false")
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        messages = record[name]
        if not isinstance(messages, list) or not all(isinstance(each, dict) and "role" in each for each in messages):
            raise TypeError(f'{name} must be a list of chat messages such as {{"role": "{role}", "content": "…"}}')
    return record["id"], record["prompt"], record["completion"]


def common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    """Number of leading tokens or characters that two sequences share."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
