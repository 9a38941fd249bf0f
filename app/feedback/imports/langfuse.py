"""Scores of Langfuse with the traces or observations that they judge, in one file (exports may be put after one another).

Fields after the public API's schemas (langfuse.com/docs/api, models Score, TraceWithFullDetails, Observation) and the field
reference of the blob storage export, which writes the same names with underscores: a score has ``name``, ``value``,
``stringValue``, ``dataType``, ``comment``, ``traceId`` and perhaps ``observationId``; traces and observations have ``id``,
``input`` and ``output``; a downloaded trace holds its ``observations`` and ``scores``. Only scores that are thumbs count:
booleans, 1 and 0, 1 and -1, or words that mean one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.feedback.imports.join import Shelf
from app.feedback.imports.reading import Row, Source
from app.feedback.imports.records import records
from app.feedback.imports.values import Options, as_json, moment, name_of, split_answer, thumb, without_nothing


def _get(record: Mapping[str, Any], name: str) -> Any:
    """By its name in the API (traceId) or in the exports (trace_id)."""
    if name in record:
        return record[name]
    return record.get("".join(f"_{char.lower()}" if char.isupper() else char for char in name))


def _is_score(record: Mapping[str, Any]) -> bool:
    named = _get(record, "traceId") is not None or _get(record, "observationId") is not None
    return named and "name" in record and ("value" in record or _get(record, "stringValue") is not None)


def sniff(first: Mapping[str, Any]) -> float:
    inner = first.get("data")
    if isinstance(inner, list) and inner and isinstance(inner[0], dict):
        first = inner[0]
    if isinstance(first.get("trace"), dict) and isinstance(first.get("scores"), list):
        return 0.95
    if _is_score(first) and _get(first, "dataType") is not None:
        return 1.0
    if isinstance(first.get("scores"), list) and "input" in first:
        return 0.9
    is_part = any(_get(first, name) is not None for name in ("traceId", "sessionId", "htmlPath", "projectId", "userId"))
    return 0.8 if is_part and "input" in first and "output" in first else 0.0


def rows(source: Source, options: Options) -> Iterator[Row]:
    with Shelf() as shelf:
        for line, record in records(source):
            if isinstance(record, str):
                yield line, record
                continue
            _sort(shelf, line, record)
        for line, score in shelf.later():
            if options.question and score.get("name") != options.question:
                continue
            try:
                yield line, _item(shelf, score, options)
            except (ValueError, AttributeError, TypeError, KeyError) as error:
                yield line, str(error) if isinstance(error, ValueError) else "is no score of Langfuse"


def _sort(shelf: Shelf, line: int, record: dict[str, Any]) -> None:  # noqa: C901 -- one branch per kind of record
    """Onto the shelf: traces and observations by id, scores for later."""
    listed = record.get("data")
    if isinstance(listed, list):
        for each in listed:
            if isinstance(each, dict):
                _sort(shelf, line, each)
        return
    if isinstance(record.get("trace"), dict):
        trace, rest = record["trace"], {key: value for key, value in record.items() if key != "trace"}
        _sort(shelf, line, {**trace, **rest} if not _is_score(record) else trace)
        if _is_score(record):
            shelf.put_later(line, {**rest, "traceId": _get(record, "traceId") or trace.get("id")})
        return
    if _is_score(record):
        shelf.put_later(line, record)
        return
    if (key := name_of(record.get("id"))) is not None:
        kept = {name: _get(record, name) for name in _KEPT}
        shelf.put("part", key, without_nothing(kept))
    for each in record.get("observations") or []:
        if isinstance(each, dict):
            _sort(shelf, line, each)
    for each in record.get("scores") or []:
        if isinstance(each, dict):
            shelf.put_later(line, {"traceId": record.get("id"), **each})


_KEPT = ("input", "output", "model", "providedModelName", "name", "userId", "sessionId", "traceId", "tags")


def _item(shelf: Shelf, score: Mapping[str, Any], options: Options) -> dict[str, Any]:
    observation, trace = name_of(_get(score, "observationId")), name_of(_get(score, "traceId"))
    key = observation or trace or ""
    part = shelf.get("part", key) or (shelf.get("part", trace) if trace else None)
    if part is None:
        kind, named = ("observation", observation) if observation else ("trace", trace)
        raise ValueError(f"the {kind} {named} of this score is not in the file; put traces and scores into one file")
    value = _get(score, "stringValue") if _get(score, "stringValue") not in (None, "") else score.get("value")
    try:
        label = thumb(value, options)
    except ValueError:
        raise ValueError(f"the score {score.get('name')} is {value!r}, which is no thumb") from None
    of_trace = (shelf.get("part", trace) if trace else None) or {}
    asked, said = split_answer(part.get("input"), part.get("output"))
    author = name_of(_get(score, "authorUserId")) or name_of(part.get("userId")) or name_of(of_trace.get("userId"))
    metadata = as_json(score.get("metadata"))
    return without_nothing(
        {
            "prompt": asked,
            "completion": said,
            "label": label,
            "model": name_of(part.get("model") or part.get("providedModelName")),
            "rater": author,
            "comment": (score.get("comment") or "")[:2000] or None,
            "conversation_id": name_of(part.get("sessionId") or of_trace.get("sessionId")),
            "completion_id": key,
            "external_id": name_of(score.get("id")),
            "occurred_at": moment(score.get("timestamp") or _get(score, "createdAt")),
            "metadata": {"score": score.get("name"), **(metadata if isinstance(metadata, dict) else {})},
        }
    )
