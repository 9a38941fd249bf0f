"""What diversity is sampled on: the prompts of a file, or those of the dev split that have a category."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.alignment.dataset import Encoder, Row
from worker.alignment.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCase:
    category: str
    messages: list[dict[str, Any]]
    token_ids: tuple[int, ...]
    """The rendered prompt, ready to be continued."""
    domain: str = ""
    """Group of categories; "" for those without one."""
    open_ended: bool = True
    """False: one right answer. Such categories are controls."""


def domain_of(category: str) -> str:
    """``domain/name`` and ``domain: name`` are of a domain; "" for any other name."""
    for mark in ("/", ":"):
        domain, found, rest = category.partition(mark)
        if found and domain.strip() and rest.strip():
            return domain.strip()
    return ""


def prompt_cases(rows: Sequence[Row], encoder: Encoder) -> list[PromptCase]:
    """The distinct prompts that have a category, in the order of the rows, cut to max_length as in training."""
    distinct = {row.prompt_key: row for row in reversed(rows) if row.category}
    return [
        PromptCase(
            category=row.category,
            messages=row.messages,
            token_ids=tuple(token_ids),
            domain=domain_of(row.category),
        )
        for row in reversed(distinct.values())
        if row.category and (token_ids := encoder.sampling_ids(row.messages))
    ]


def read_prompts(path: Path, encoder: Encoder) -> list[PromptCase]:
    """The prompts of a JSON-lines file of {"category", "messages", "domain", "open_ended"}; the last two may be left out.

    Raises DataError naming the first line that is none.
    """
    cases = []
    for number, line in _lines(path):
        try:
            cases.append(_case(line, encoder))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path.name} line {number} is no prompt: {error}") from error
        except Exception as error:  # a template may raise anything, jinja2's own errors included
            raise DataError(f"{path.name} line {number}: the chat template refused it: {error}") from error
    if not cases:
        raise DataError(f"{path.name} holds no prompt")
    return cases


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Raises DataError where the file cannot be read."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _case(line: str, encoder: Encoder) -> PromptCase:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise TypeError("it must be an object")
    category, messages = record.get("category"), record.get("messages")
    if not isinstance(category, str) or not category.strip():
        raise TypeError("category must be a name")
    if not isinstance(messages, list) or not messages or not all(_is_message(each) for each in messages):
        raise TypeError('messages must be a list of chat messages such as {"role": "user", "content": "…"}')
    domain, open_ended = record.get("domain", domain_of(category)), record.get("open_ended", True)
    if not isinstance(domain, str) or not isinstance(open_ended, bool):
        raise TypeError("domain must be a name and open_ended true or false")
    token_ids = encoder.sampling_ids(messages)
    if not token_ids:
        raise ValueError("its system message is longer than max_length")
    return PromptCase(
        category=category, messages=messages, token_ids=tuple(token_ids), domain=domain, open_ended=open_ended
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str)
