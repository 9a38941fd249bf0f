"""Records of Argilla with their responses, as ``dataset.records.to_json()`` writes them.

Fields after ``Record.to_dict`` and ``RecordResponses.to_dict`` in argilla, ``src/argilla/records/_resource.py``: ``id``,
``fields``, ``metadata``, ``responses``: question -> [{"value", "user_id"}]. The server's API lists responses by user
({"values": {question: {"value"}}, "user_id", "status"}); both are read. A user's first answer that is a thumb counts, text
answers to other questions become the comment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.feedback.imports.mapping import guess
from app.feedback.imports.reading import Row, Source
from app.feedback.imports.records import records
from app.feedback.imports.values import Options, dialogue_of, name_of, thumb, without_nothing


def sniff(first: Mapping[str, Any]) -> float:
    fields, responses = first.get("fields"), first.get("responses")
    return 1.0 if isinstance(fields, dict) and isinstance(responses, (dict, list)) else 0.0


def rows(source: Source, options: Options) -> Iterator[Row]:
    for line, record in records(source):
        if isinstance(record, str):
            yield line, record
            continue
        try:
            yield from ((line, item) for item in _items(record, options))
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            yield line, str(error) if isinstance(error, ValueError) else "is no record of Argilla"


def _by_user(responses: Any) -> dict[str, dict[str, Any]]:
    """User -> question -> value. Drafts and discarded ones do not count."""
    found: dict[str, dict[str, Any]] = {}
    if isinstance(responses, dict):
        for question, answers in responses.items():
            for answer in answers:
                if answer.get("status", "submitted") == "submitted":
                    found.setdefault(str(answer.get("user_id")), {})[question] = answer.get("value")
        return found
    for answer in responses or []:
        if answer.get("status", "submitted") == "submitted":
            values = {name: (value or {}).get("value") for name, value in (answer.get("values") or {}).items()}
            found.setdefault(str(answer.get("user_id")), {}).update(values)
    return found


def _items(record: dict[str, Any], options: Options) -> Iterator[dict[str, Any]]:
    fields = record["fields"]
    names = {**guess(fields), **{key: value for key, value in options.mapping.items() if value in fields}}
    if "prompt" not in names or "completion" not in names:
        raise ValueError(f"which fields are prompt and completion is not clear from {', '.join(map(str, fields))}")
    metadata = record.get("metadata") or {}
    basis = {
        "prompt": dialogue_of(fields[names["prompt"]]),
        "completion": dialogue_of(fields[names["completion"]]),
        "completion_id": name_of(record.get("id") or record.get("external_id")),
        "model": name_of(metadata.get("model")),
        "category": name_of(metadata.get("category")),
        "metadata": {key: value for key, value in metadata.items() if key not in ("model", "category")},
    }
    answers = _by_user(record.get("responses"))
    if not answers:
        yield without_nothing(basis)
    for user, values in answers.items():
        label, used = _thumb(values, options)
        texts = [value for name, value in values.items() if name != used and isinstance(value, str)]
        yield without_nothing(
            {
                **basis,
                "rater": user if user != "None" else None,
                "label": label,
                "comment": "\n".join(texts)[:2000] or None,
            }
        )


def _thumb(values: Mapping[str, Any], options: Options) -> tuple[bool, str]:
    """Raises ValueError where no answer is one."""
    for name, value in values.items():
        if options.question and name != options.question:
            continue
        try:
            return thumb(value, options), name
        except ValueError:
            continue
    shown = ", ".join(f"{name}: {value!r}"[:80] for name, value in values.items())
    raise ValueError(f"no answer is a thumb ({shown})")
