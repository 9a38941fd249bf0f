"""The importers by name, and which of them a file is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from app.core.errors import InvalidError
from app.feedback.imports import argilla, label_studio, langfuse, langsmith, librechat, open_webui, tables
from app.feedback.imports.reading import Row, Source, opened
from app.feedback.imports.records import records
from app.feedback.imports.values import Options
from app.feedback.schemas import FeedbackItem, parse_item

Sniff = Callable[[Mapping[str, Any]], float]
Checked = tuple[int, FeedbackItem | str]


@dataclass(frozen=True)
class Format:
    name: str
    title: str
    rows: Callable[[Source, Options], Iterator[Row]]
    sniff: Sniff | None = None
    """How sure it is of the file's first JSON object, 0 to 1; None for tables."""
    has_columns: bool = False
    """Whether its columns are mapped by hand."""
    question: str = ""
    """What a choice among several scores or questions is called; empty: there is none."""


FORMATS = {
    each.name: each
    for each in (
        Format("jsonl", "JSON lines or a JSON array (TRL too)", tables.json_rows, has_columns=True),
        Format("csv", "CSV", tables.csv_rows, has_columns=True),
        Format("parquet", "Parquet (TRL too)", tables.parquet_rows, has_columns=True),
        Format("open_webui", "Open WebUI: feedback", open_webui.rows, open_webui.sniff),
        Format("librechat", "LibreChat: messages", librechat.rows, librechat.sniff),
        Format("langfuse", "Langfuse: traces and scores", langfuse.rows, langfuse.sniff, question="Score"),
        Format("langsmith", "LangSmith: runs and feedback", langsmith.rows, langsmith.sniff, question="Feedback key"),
        Format("argilla", "Argilla: records", argilla.rows, argilla.sniff, question="Question"),
        Format("label_studio", "Label Studio: tasks", label_studio.rows, label_studio.sniff, question="Control"),
    )
}


def find_format(name: str) -> Format:
    """Raises InvalidError."""
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise InvalidError("The format is not known.", fields={"format": f"{name!r} is none of {known}"})
    return FORMATS[name]


def detect(file: Path | BinaryIO, name: str = "") -> Format:
    """By the content, where that is not clear by the file's ending. Raises InvalidError for a file that cannot be read."""
    with opened(file, name) as source:
        if source.is_parquet:
            return FORMATS["parquet"]
        stream: Any = source.stream
        start = stream.peek(4096)[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
        if not start.startswith((b"{", b"[")):
            ends = source.name.lower().removesuffix(".gz").endswith
            first = start.split(b"\n", 1)[0]
            is_table = ends((".csv", ".tsv")) or (not ends((".jsonl", ".ndjson", ".json")) and b"\x00" not in start[2:])
            has_sign = any(sign.encode() in first for sign in tables.DELIMITERS) or start[:2] in (
                b"\xff\xfe",
                b"\xfe\xff",
            )
            return FORMATS["csv"] if is_table and (has_sign or ends((".csv", ".tsv"))) else FORMATS["jsonl"]
        first_five = [record for _, record in islice(records(source), 5) if isinstance(record, dict)]
    scores = {
        each.name: max((each.sniff(record) for record in first_five), default=0.0)
        for each in FORMATS.values()
        if each.sniff
    }
    best = max(scores, key=lambda key: scores[key])
    return FORMATS[best] if scores[best] > 0.5 else FORMATS["jsonl"]


def columns_of(file: Path | BinaryIO, chosen: Format, options: Options, name: str = "") -> list[str]:
    """Names of the columns, of the first 100 rows where they differ; empty for a format without."""
    if not chosen.has_columns:
        return []
    with opened(file, name) as source:
        if chosen.name == "csv":
            table = tables.csv_table(source, options)
        else:
            table = tables.parquet_table(source) if chosen.name == "parquet" else records(source)
        found: dict[str, None] = {}
        for _, row in islice(table, 100):
            if isinstance(row, dict):
                found.update(dict.fromkeys(map(str, row)))
    return list(found)[:200]


def checked_rows(source: Source, chosen: Format, options: Options) -> Iterator[Checked]:
    """Each row as an item that may be stored, or why it may not."""
    for line, row in chosen.rows(source, options):
        if isinstance(row, str):
            yield line, row
            continue
        try:
            yield line, parse_item(row)
        except InvalidError as error:
            yield line, "; ".join(f"{name}: {words}" for name, words in error.fields.items())
        except (ValueError, RecursionError) as error:
            yield line, str(error)
