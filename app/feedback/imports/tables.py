"""JSON, CSV and Parquet as tables of rows."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from app.feedback.imports.mapping import table_rows
from app.feedback.imports.reading import Row, Source, refuse
from app.feedback.imports.records import MAX_VALUE_BYTES, records
from app.feedback.imports.values import Options
from app.settings import get_settings

ENCODINGS = {
    "utf-8-sig": "UTF-8",
    "utf-16": "UTF-16",
    "cp1252": "Windows-1252",
    "latin-1": "Latin-1",
    "shift_jis": "Shift JIS",
    "gb18030": "GB 18030",
}
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_BATCH = 256


def json_rows(source: Source, options: Options) -> Iterator[Row]:
    yield from table_rows(records(source), options, texts=False)


def csv_dialect(head: bytes, options: Options) -> tuple[str, str]:
    """Encoding and delimiter, as told or by the first bytes. Raises InvalidError for what is no text."""
    encoding = options.encoding or _encoding(head)
    if encoding not in ENCODINGS:
        refuse(f"The encoding {encoding} is not known.", f"Choose one of {', '.join(ENCODINGS)}.", "encoding")
    if options.delimiter and options.delimiter not in DELIMITERS:
        refuse("The delimiter is not known.", "Choose a comma, semicolon, tab or bar.", "delimiter")
    text = head.decode(encoding, "ignore")
    first = next((line for line in text.splitlines() if line.strip()), "")
    counted = {sign: len(next(csv.reader([first], delimiter=sign), [])) for sign in DELIMITERS}
    return encoding, options.delimiter or max(counted, key=lambda sign: counted[sign])


def _encoding(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\x00" in head:
        refuse("The file is binary, not text.", "Needed: CSV text, JSON or Parquet.")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def csv_table(source: Source, options: Options) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line at which a row begins, and its cells by column. Raises InvalidError for a header or bytes that do not fit."""
    stream: Any = source.stream
    encoding, delimiter = csv_dialect(stream.peek(65536), options)
    text = io.TextIOWrapper(stream, encoding, newline="")
    csv.field_size_limit(MAX_VALUE_BYTES)
    reader = csv.reader(text, delimiter=delimiter)
    try:
        header = _header(next(reader, []))
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield line, f"is no CSV: {error}"
                continue
            if cells is None:
                return
            if not any(cells):
                continue
            if len(cells) != len(header):
                yield line, f"has {len(cells):,} cells, the header has {len(header):,}"
                continue
            yield line, dict(zip(header, cells, strict=True))
    except UnicodeDecodeError as error:
        bad = error.object[error.start]
        refuse(
            f"After line {reader.line_num} the file is not {ENCODINGS[encoding]} (byte 0x{bad:02x}).",
            "Choose its encoding, or save it as UTF-8.",
            "encoding",
        )
    finally:
        text.detach()


def _header(cells: list[str]) -> list[str]:
    named = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
    twice = next((name for name, count in Counter(named).items() if count > 1), None)
    if twice is not None:
        refuse(f"The column {twice} stands twice in the header.", "Rename one of them.")
    return named


def csv_rows(source: Source, options: Options) -> Iterator[Row]:
    yield from table_rows(csv_table(source, options), options, texts=True)


def parquet_table(source: Source) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Row number and values. Raises InvalidError for a damaged file or one that unpacks beyond the limit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        file = pq.ParquetFile(source.raw, buffer_size=2**20, pre_buffer=False)
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        limit = get_settings().max_import_bytes
        if sum(group.total_byte_size for group in groups) > limit:
            refuse(f"The file unpacks to more than {limit // 2**20} MiB.", "Split it, or raise KTO_MAX_IMPORT_BYTES.")
        names = file.schema_arrow.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            refuse(f"The column {twice} stands twice.", "Rename one of them.")
        total = max(file.metadata.num_rows, 1)
        for batch in file.iter_batches(batch_size=_BATCH, use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield number, {key: _value(value) for key, value in row.items()}
            source.done = source.size * number // total
    except (pa.ArrowException, OSError, ValueError) as error:
        refuse(
            f"The Parquet file is damaged after row {number:,}: {str(error).splitlines()[0][:200]}.", "Write it again."
        )


def _value(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, dict):
        return {str(key): _value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_value(inner) for inner in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    known = isinstance(value, (str, bool, int, float)) or value is None
    return value if known else float(value) if isinstance(value, Decimal) else str(value)


def parquet_rows(source: Source, options: Options) -> Iterator[Row]:
    yield from table_rows(parquet_table(source), options, texts=False)
