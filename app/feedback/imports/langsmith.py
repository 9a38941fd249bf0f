"""Feedback of LangSmith with the runs that it judges, in one file (exports may be put after one another).

Fields after docs.langchain.com/langsmith/feedback-data-format (``id``, ``run_id``, ``key``, ``score``, ``value``, ``comment``,
``correction``, ``feedback_source``) and docs.langchain.com/langsmith/run-data-format (``id``, ``run_type``, ``inputs``,
``outputs``, ``session_id``, ``extra``, ``tags``). A run may hold its feedback in a list ``feedback``. Inputs and outputs are
read as OpenAI's messages, as LangChain's, or as the one text that they hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.feedback.imports.join import Shelf
from app.feedback.imports.reading import Row, Source
from app.feedback.imports.records import records
from app.feedback.imports.values import Options, dialogue_of, moment, name_of, split_answer, thumb, without_nothing


def _is_feedback(record: Mapping[str, Any]) -> bool:
    return "run_id" in record and "key" in record and ("score" in record or "value" in record)


def sniff(first: Mapping[str, Any]) -> float:
    if _is_feedback(first):
        return 1.0
    return 0.95 if "run_type" in first and "inputs" in first else 0.0


def rows(source: Source, options: Options) -> Iterator[Row]:
    with Shelf() as shelf:
        for line, record in records(source):
            if isinstance(record, str):
                yield line, record
            elif _is_feedback(record):
                shelf.put_later(line, record)
            elif (key := name_of(record.get("id"))) is not None:
                kept = ("inputs", "outputs", "session_id", "extra", "name", "trace_id")
                shelf.put("run", key, {name: record.get(name) for name in kept})
                for each in record.get("feedback") or []:
                    if isinstance(each, dict):
                        shelf.put_later(line, {"run_id": key, **each})
            else:
                yield line, "is neither a run nor feedback of LangSmith"
        for line, feedback in shelf.later():
            if options.question and feedback.get("key") != options.question:
                continue
            try:
                yield line, _item(shelf, feedback, options)
            except (ValueError, AttributeError, TypeError, KeyError) as error:
                yield line, str(error) if isinstance(error, ValueError) else "is no feedback of LangSmith"


def _item(shelf: Shelf, feedback: Mapping[str, Any], options: Options) -> dict[str, Any]:
    key = name_of(feedback.get("run_id")) or ""
    run = shelf.get("run", key)
    if run is None:
        raise ValueError(f"the run {key} of this feedback is not in the file; put runs and feedback into one file")
    value = feedback.get("score") if feedback.get("score") is not None else feedback.get("value")
    try:
        label = thumb(value, options)
    except ValueError:
        raise ValueError(f"the feedback {feedback.get('key')} is {value!r}, which is no thumb") from None
    asked, said = split_answer(run["inputs"], run["outputs"])
    extra = ((run.get("extra") or {}).get("metadata")) or {}
    params = ((run.get("extra") or {}).get("invocation_params")) or {}
    source = feedback.get("feedback_source") or {}
    correction = feedback.get("correction")
    return without_nothing(
        {
            "prompt": asked,
            "completion": said,
            "label": label,
            "model": name_of(extra.get("ls_model_name") or params.get("model") or params.get("model_name")),
            "rater": name_of(source.get("user_id") or (source.get("metadata") or {}).get("user_id")),
            "comment": (feedback.get("comment") or "")[:2000] or None,
            "correction": dialogue_of(correction) or None if correction and label is False else None,
            "conversation_id": name_of(
                extra.get("thread_id") or extra.get("session_id") or extra.get("conversation_id")
            ),
            "completion_id": key,
            "external_id": name_of(feedback.get("id")),
            "occurred_at": moment(feedback.get("modified_at") or feedback.get("created_at")),
            "metadata": without_nothing({"key": feedback.get("key"), "feedback_source": source.get("type")}),
        }
    )
