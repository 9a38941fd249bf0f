"""Tasks of Label Studio with annotations, as its JSON export writes them.

Fields after labelstud.io/guide/task_format: ``data`` (what the task shows), ``annotations`` with ``completed_by``,
``was_cancelled`` and ``result``, a list of {"from_name", "type": "choices", "value": {"choices": […]}}. An annotator's first
choice that is a thumb counts; text areas become the comment. JSON-MIN, where each task is one flat object, is read as a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.feedback.imports.mapping import guess
from app.feedback.imports.reading import Row, Source
from app.feedback.imports.records import records
from app.feedback.imports.values import Options, dialogue_of, moment, name_of, thumb, without_nothing


def sniff(first: Mapping[str, Any]) -> float:
    return 1.0 if isinstance(first.get("data"), dict) and isinstance(first.get("annotations"), list) else 0.0


def rows(source: Source, options: Options) -> Iterator[Row]:
    for line, record in records(source):
        if isinstance(record, str):
            yield line, record
            continue
        try:
            yield from ((line, item) for item in _items(record, options))
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            yield line, str(error) if isinstance(error, ValueError) else "is no task of Label Studio"


def _items(task: dict[str, Any], options: Options) -> Iterator[dict[str, Any]]:
    data = task["data"]
    names = {**guess(data), **{key: value for key, value in options.mapping.items() if value in data}}
    if "prompt" not in names or "completion" not in names:
        raise ValueError(f"which data are prompt and completion is not clear from {', '.join(map(str, data))}")
    used = {names[name] for name in ("prompt", "completion", "model", "category") if name in names}
    basis = {
        "prompt": dialogue_of(data[names["prompt"]]),
        "completion": dialogue_of(data[names["completion"]]),
        "completion_id": name_of(task.get("id")),
        "model": name_of(data.get(names.get("model", ""))),
        "category": name_of(data.get(names.get("category", ""))),
        "metadata": {key: value for key, value in data.items() if key not in used},
    }
    given = [each for each in task["annotations"] if not each.get("was_cancelled")]
    if not given:
        yield without_nothing(basis)
    for annotation in given:
        label, comment = _verdict(annotation.get("result") or [], options)
        yield without_nothing(
            {
                **basis,
                "label": label,
                "comment": comment[:2000] or None,
                "rater": name_of(annotation.get("completed_by")),
                "external_id": name_of(annotation.get("id")),
                "occurred_at": moment(annotation.get("updated_at") or annotation.get("created_at")),
            }
        )


def _verdict(results: list[dict[str, Any]], options: Options) -> tuple[bool, str]:
    """Raises ValueError where no choice is a thumb."""
    label: bool | None = None
    texts: list[Any] = []
    seen: list[Any] = []
    for result in results:
        value = result.get("value") or {}
        chosen = value.get("choices") or ([value["rating"]] if "rating" in value else [])
        texts += value.get("text") or [] if isinstance(value.get("text"), list) else []
        seen += chosen
        if label is None and chosen and (not options.question or result.get("from_name") == options.question):
            try:
                label = thumb(chosen, options)
            except ValueError:
                continue
    if label is None:
        raise ValueError(f"no choice is a thumb ({', '.join(map(str, seen)) or 'nothing chosen'})")
    return label, "\n".join(map(str, texts))
