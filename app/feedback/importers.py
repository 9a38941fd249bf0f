"""Import a JSON-lines file: one item of feedback per line, all of the file or nothing of it.

Rows are read in chunks, so that memory stays flat; every row is counted as created, updated, duplicate or rejected with its
line number. Fields that an item does not know go into its metadata. A file that was imported before changes nothing.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.audit import record
from app.core.errors import InvalidError, TooLargeError
from app.feedback.schemas import FeedbackItem, parse_item
from app.feedback.service import ingest
from app.models import Import, Project, User
from app.settings import get_settings

CHUNK_ROWS = 1000
CHUNK_BYTES = 8 * 2**20
MAX_LINE_BYTES = 4 * 2**20
MAX_LISTED = 1000
_FORM = 'one JSON object per line, such as {"prompt": "…", "completion": "…", "label": true}'
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def _refuse(message: str, remedy: str) -> NoReturn:
    raise InvalidError(message, remedy=f"{remedy} Nothing was imported.", fields={"file": f"{message} {remedy}"})


@contextmanager
def _opened(source: Path | str | BinaryIO) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked where it is gzip."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            _refuse(f"{path} is no file.", "Check the path.")
        try:
            file = path.open("rb")
        except OSError as error:
            _refuse(f"{path} cannot be read: {error.strerror}.", "Check who may read it.")
        with file, _opened(file) as stream:
            yield stream
        return
    head = source.read(2)
    source.seek(0)
    if head != b"\x1f\x8b":
        yield source
        return
    with gzip.GzipFile(fileobj=source, mode="rb") as unpacked:  # the file of an upload says that it is for writing
        yield cast("BinaryIO", unpacked)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Line number and bytes; None for a line that is too long. Raises TooLargeError past the import limit."""
    limit, total, number = get_settings().max_import_bytes, 0, 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        whole: bytes | None = line
        total += len(line)
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            whole = None
            line = stream.readline(MAX_LINE_BYTES + 1)
            total += len(line)
            if not line or total > limit:
                break
        if total > limit:
            raise TooLargeError(
                f"The file is larger than {limit // 2**20} MiB.",
                remedy="Split it and import the parts, or raise KTO_MAX_IMPORT_BYTES. Nothing was imported.",
            )
        yield number, whole


def _check_head(head: bytes) -> None:
    """Raises InvalidError for what is plainly no JSON lines, by its first bytes."""
    for mark, name in _ENCODINGS:
        if head.startswith(mark):
            _refuse(f"The file is {name}.", "Save it as UTF-8.")
    if b"\x00" in head:
        _refuse("The file is binary, not text.", f"Needed: UTF-8 text with {_FORM}.")
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        _refuse("The file is one JSON array.", "Write one object per line, e.g. `jq -c '.[]' file.json > file.jsonl`.")


def _decode(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = line[error.start]
        _refuse(f"Line {number} is not UTF-8 (byte 0x{bad:02x} at {error.start + 1}).", "Save the file as UTF-8.")


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _parse(text: str) -> FeedbackItem:
    """Raises ValueError or InvalidError."""
    try:
        row = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(row, dict):
        raise ValueError(f"is no JSON object; needed is {_FORM}")  # noqa: TRY004 -- told to the user like the others
    return parse_item(_fold_unknown(row))


def _fold_unknown(row: dict[str, Any]) -> dict[str, Any]:
    """Fields that an item does not know (``source``, ``pair_id``) move into its metadata."""
    known = {key: value for key, value in row.items() if key in FeedbackItem.model_fields and value is not None}
    others = {key: value for key, value in row.items() if key not in FeedbackItem.model_fields}
    metadata = known.get("metadata", {})
    if not others or not isinstance(metadata, dict):
        return known
    twice = sorted(set(others) & set(metadata))
    if twice:
        raise InvalidError("", fields={twice[0]: "stands both beside metadata and in it"})
    return {**known, "metadata": {**others, **metadata}}


def _reason(error: Exception) -> str:
    if isinstance(error, InvalidError):
        return "; ".join(f"{name}: {words}" for name, words in error.fields.items())
    return str(error)


class _Reader:
    """Counts rows while they pass, and hands them over in chunks."""

    def __init__(self, entry: Import) -> None:
        self.entry = entry
        self.rejected: list[dict[str, Any]] = []
        self.num_rows = 0

    def reject(self, line: int, reason: str) -> None:
        self.entry.num_rejected += 1
        if len(self.rejected) < MAX_LISTED:
            self.rejected.append({"line": line, "reason": reason[:500]})

    def chunks(self, stream: BinaryIO) -> Iterator[tuple[list[int], list[FeedbackItem]]]:
        numbers: list[int] = []
        items: list[FeedbackItem] = []
        size = 0
        _check_head(stream.read(4096))
        stream.seek(0)
        for number, raw in _lines(stream):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 and raw is not None else raw
            if line is not None and not line.strip():
                continue
            self.num_rows += 1
            if line is None:
                self.reject(number, f"is longer than {MAX_LINE_BYTES // 2**20} MiB")
                continue
            text = _decode(line, number)
            try:
                items.append(_parse(text))
            except (ValueError, InvalidError) as error:
                self.reject(number, _reason(error))
                continue
            numbers.append(number)
            size += len(line)
            if len(items) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                yield numbers, items
                numbers, items, size = [], [], 0
        if items:
            yield numbers, items


def import_file(
    db: Session,
    project: Project,
    file: Path | str | BinaryIO,
    *,
    filename: str = "",
    source: str = "import",
    user: User | None = None,
) -> Import:
    """Read ``file`` (JSON lines in UTF-8, gzip or not; a path or a seekable binary stream) into ``project``.

    Returns the stored ``Import`` with its counts and its first 1,000 rejected rows. Everything happens in one savepoint:
    nobody sees a part of it, and after an error nothing of it is there.
    Raises InvalidError where the file is none that can be read or holds no good row, TooLargeError where it is too big.
    """
    name = filename or (Path(file).name if isinstance(file, (str, Path)) else "feedback.jsonl")
    with db.begin_nested(), _opened(file) as stream:
        # One import at a time: two of the same file would lock the same texts in different order.
        db.execute(select(func.pg_advisory_xact_lock(func.hashtext("import"), project.id)))
        entry = Import(
            project_id=project.id,
            filename=_printable(name),
            source=source,
            num_created=0,
            num_updated=0,
            num_duplicate=0,
            num_rejected=0,
            created_by=user.id if user else None,
        )
        reader = _Reader(entry)
        try:
            for numbers, items in reader.chunks(stream):
                _store(db, project, entry, reader, numbers, items, source)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            _refuse("The gzip file is damaged.", "Pack it again.")
        _check_any(reader)
        entry.rejected = sorted(reader.rejected, key=lambda row: row["line"])
        db.add(entry)
        db.flush()
        record(
            db,
            "feedback.imported",
            project_id=project.id,
            user_id=user.id if user else None,
            subject=entry.filename,
            created=entry.num_created,
            updated=entry.num_updated,
            duplicate=entry.num_duplicate,
            rejected=entry.num_rejected,
        )
    return entry


def _printable(name: str) -> str:
    cleaned = "".join(char for char in Path(name).name if char.isprintable() and not "\ud800" <= char <= "\udfff")
    return cleaned[:200] or "feedback.jsonl"


def _store(
    db: Session,
    project: Project,
    entry: Import,
    reader: _Reader,
    numbers: list[int],
    items: list[FeedbackItem],
    source: str,
) -> None:
    for number, result in zip(numbers, ingest(db, project, items, source, from_file=True), strict=True):
        if result.status == "created":
            entry.num_created += 1
        elif result.status == "updated":
            entry.num_updated += 1
        elif result.status == "unchanged":
            entry.num_duplicate += 1
        else:
            reader.reject(number, "; ".join(f"{name}: {words}" for name, words in result.fields.items()))


def _check_any(reader: _Reader) -> None:
    """Raises InvalidError where no row was good."""
    if reader.num_rows == 0:
        _refuse("The file is empty.", f"Needed: {_FORM}.")
    if reader.entry.num_rejected == reader.num_rows:
        first = reader.rejected[0]
        rows = "The only row was" if reader.num_rows == 1 else f"All {reader.num_rows:,} rows were"
        _refuse(f"{rows} rejected. Line {first['line']}: {first['reason']}.", f"Needed: {_FORM}.")
