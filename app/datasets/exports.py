"""Exports for trainers: TRL's unpaired preference (KTO) and preference (DPO) rows as JSON lines or Parquet, and CSV.

The forms are those of huggingface.co/docs/trl/dataset_formats, conversational: prompt and completions are lists of messages.
Everything is streamed; a row group of Parquet (10,000 rows, or 16 million characters) or 2,000 rows of a cursor are the
most that is held.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from app.core.errors import InvalidError, NotFoundError
from app.datasets.export_rows import (
    RATING_COLUMNS,
    LabelRow,
    current_rows,
    pairs,
    rating_rows,
    snapshot_rows,
)
from app.datasets.splits import SIDES
from app.feedback.cells import safe_cell
from app.feedback.messages import content_text, messages_text
from app.models import Project, Snapshot

_ROW_GROUP = 10_000
_ROW_GROUP_CHARS = 2**24
_CHUNK_BYTES = 2**18
KINDS = {
    "kto": "TRL KTO: prompt, completion, label",
    "dpo": "TRL DPO: prompt, chosen, rejected",
    "labels": "Labels as a table",
    "ratings": "Current ratings as a table",
}
FORMATS = {"kto": ("jsonl", "parquet"), "dpo": ("jsonl", "parquet"), "labels": ("csv",), "ratings": ("csv",)}
MEDIA = {
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
}


@dataclass(frozen=True)
class Download:
    filename: str
    media_type: str
    chunks: Iterator[bytes]


def export(
    project: Project, *, kind: str, file_format: str, snapshot: Snapshot | None = None, side: str = ""
) -> Download:
    """The bytes to send, made while they are sent. ``side``: train, dev or test alone; empty: all.

    Raises InvalidError for a kind or format that there is not, and where there is nothing to export.
    """
    _check(kind, file_format, side, snapshot)
    chunks = _checked(_chunks(project, kind, file_format, snapshot, side))
    of = f"-{snapshot.content_hash[:8]}" if snapshot else ""
    name = f"{project.slug}{of}-{kind}{f'-{side}' if side else ''}.{file_format}"
    return Download(name, MEDIA[file_format], chunks)


def _check(kind: str, file_format: str, side: str, snapshot: Snapshot | None) -> None:
    fields = {}
    if kind not in KINDS:
        fields["kind"] = f"one of {', '.join(KINDS)}"
    elif file_format not in FORMATS[kind]:
        fields["format"] = f"{kind} is exported as {' or '.join(FORMATS[kind])}"
    if side and side not in SIDES:
        fields["side"] = f"one of {', '.join(SIDES)}, or empty for all"
    if kind == "ratings" and (snapshot is not None or side):
        fields["kind"] = "a snapshot holds labels, no ratings; export these without a snapshot"
    if fields:
        raise InvalidError("There is no such export.", fields=fields)


def _checked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The first bytes are made before anything is sent: an empty export is an error in words, not an empty file."""
    first = next(chunks, None)
    if first is None:
        raise NotFoundError("There is nothing to export yet.", remedy="Rate some completions first.")

    def whole() -> Iterator[bytes]:
        yield first
        yield from chunks

    return whole()


def _chunks(project: Project, kind: str, file_format: str, snapshot: Snapshot | None, side: str) -> Iterator[bytes]:
    if kind == "ratings":
        return _ratings_csv(project)
    rows = snapshot_rows(snapshot) if snapshot else current_rows(project)
    wanted = (row for row in rows if row.side == side) if side else rows
    if kind == "labels":
        return _labels_csv(wanted)
    if file_format == "parquet":
        return _parquet(kind, wanted)
    lines = _dpo_lines(wanted) if kind == "dpo" else _kto_lines(wanted)
    return _joined(lines)


def _kto_lines(rows: Iterator[LabelRow]) -> Iterator[str]:
    for row in rows:
        yield f'{{"prompt":{row.prompt},"completion":{row.completion},"label":{"true" if row.label else "false"}}}\n'


def _dpo_lines(rows: Iterator[LabelRow]) -> Iterator[str]:
    for pair in pairs(rows):
        yield f'{{"prompt":{pair.prompt},"chosen":{pair.chosen},"rejected":{pair.rejected}}}\n'


def _joined(lines: Iterator[str]) -> Iterator[bytes]:
    parts, size = [], 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size >= _CHUNK_BYTES:
            yield "".join(parts).encode()
            parts, size = [], 0
    if parts:
        yield "".join(parts).encode()


def _csv(header: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> Iterator[bytes]:
    def lines() -> Iterator[str]:
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow(header)
        for row in rows:
            writer.writerow([safe_cell(value) for value in row])
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()

    return _joined(lines())


def _shown(messages: str, *, as_text: bool = False) -> str:
    """A prompt of one user message, and a completion, as text; a dialogue as the JSON list of its messages."""
    listed = json.loads(messages)
    if as_text or (
        len(listed) == 1 and set(listed[0]) == {"role", "content"} and listed[0]["role"] in ("user", "assistant")
    ):
        return messages_text(listed)
    return messages


def _labels_csv(rows: Iterator[LabelRow]) -> Iterator[bytes]:
    header = ("prompt", "completion", "label", "category", "split")
    values = (
        (_shown(row.prompt), _shown(row.completion), "true" if row.label else "false", row.category or "", row.side)
        for row in rows
    )
    return _csv(header, values)


def _ratings_csv(project: Project) -> Iterator[bytes]:
    def values() -> Iterator[tuple[Any, ...]]:
        for key, output, prompt, completion, model, category, source, rater, value, reasons, *rest in rating_rows(
            project
        ):
            comment, external, at = rest
            told = ";".join(map(str, reasons or []))
            verdict = "up" if value else "down"
            yield (
                *(key, output, _shown(prompt), completion, model or "", category or "", source, rater, verdict, told),
                *(comment or "", external or "", at.isoformat()),
            )

    return _csv(RATING_COLUMNS, values())


class _Sink(io.RawIOBase):
    """Takes what the Parquet writer writes until it is sent."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self.parts.append(part)
        self.size += len(part)
        return len(part)

    def tell(self) -> int:
        return self.size

    def taken(self) -> bytes:
        data, self.parts = b"".join(self.parts), []
        return data


def _parquet(kind: str, rows: Iterator[LabelRow]) -> Iterator[bytes]:
    """Fixed schema and writer settings: the same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ("prompt", "chosen", "rejected") if kind == "dpo" else ("prompt", "completion")
    messages = _message_type(pa)
    fields = [pa.field(name, pa.list_(messages)) for name in columns]
    if kind == "kto":
        fields.append(pa.field("label", pa.bool_()))
    schema = pa.schema(fields)
    groups = _groups(pairs(rows) if kind == "dpo" else rows, columns)
    first = next(groups, None)
    if first is None:
        return
    sink = _Sink()
    with pa.PythonFile(sink, mode="w") as file:
        writer = pq.ParquetWriter(
            file, schema, compression="zstd", compression_level=3, version="2.6", store_schema=False
        )
        for group in chain([first], groups):
            arrays = [
                pa.array([_messages(getattr(row, name)) for row in group], pa.list_(messages)) for name in columns
            ]
            if kind == "kto":
                arrays.append(pa.array([row.label for row in group], pa.bool_()))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            yield sink.taken()
        writer.close()
        yield sink.taken()


def _groups(records: Iterator[Any], columns: tuple[str, ...]) -> Iterator[list[Any]]:
    """Row groups: long texts make small ones, so that a few thousand books do not fill the memory."""
    group: list[Any] = []
    size = 0
    for row in records:
        group.append(row)
        size += sum(len(getattr(row, name)) for name in columns)
        if len(group) >= _ROW_GROUP or size >= _ROW_GROUP_CHARS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _message_type(pa: Any) -> Any:
    function = pa.struct([("name", pa.string()), ("arguments", pa.string())])
    call = pa.struct([("id", pa.string()), ("type", pa.string()), ("function", function)])
    return pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("name", pa.string()),
            ("tool_call_id", pa.string()),
            ("tool_calls", pa.list_(call)),
        ]
    )


def _messages(text: str) -> list[dict[str, Any]]:
    """Columns have one type: parts of text are joined, arguments of tool calls are text as in OpenAI's API."""
    return [_message(each) for each in json.loads(text)]


def _message(each: dict[str, Any]) -> dict[str, Any]:
    if isinstance(each.get("content"), list):
        each["content"] = content_text(each["content"])
    if each.get("tool_calls"):
        each["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _arguments(call["function"].get("arguments", ""))}}
            for call in each["tool_calls"]
        ]
    return each


def _arguments(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
