"""JSON objects out of a file, one at a time: JSON lines, one array, or several values after one another.

An array is read with ``json.JSONDecoder.raw_decode`` on a sliding window, so that it need not fit into memory.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from app.feedback.imports.reading import Source, refuse

MAX_VALUE_BYTES = 16 * 2**20
"""Longest line, and longest object of an array."""
_STEP = 2**18
FORM = 'one JSON object per line, such as {"prompt": "…", "completion": "…", "label": true}'
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_BETWEEN = re.compile(r"[\s,\[\]]*")
Record = tuple[int, dict[str, Any] | str]
"""Line, and the object or what is wrong with it."""


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def records(source: Source) -> Iterator[Record]:
    """Raises InvalidError for a file that is no JSON text in UTF-8."""
    stream: Any = source.stream
    head = stream.peek(4096)
    check_text(head)
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    first = start.split(b"\n", 1)[0].strip()
    one_by_one = start.startswith(b"[") or first == b"{" or (first.endswith((b",", b"[", b"{")) and b"\n" in start)
    yield from _values(source.stream) if one_by_one else _lines(source.stream)


def check_text(head: bytes) -> None:
    """Raises InvalidError for what is plainly no UTF-8 text, by its first bytes."""
    for mark, name in _ENCODINGS:
        if head.startswith(mark):
            refuse(f"The file is {name}.", "Save it as UTF-8.")
    if b"\x00" in head:
        refuse("The file is binary, not text.", f"Needed: UTF-8 text with {FORM}.")


def _lines(stream: BinaryIO) -> Iterator[Record]:
    number = 0
    while line := stream.readline(MAX_VALUE_BYTES + 1):
        number += 1
        if len(line) > MAX_VALUE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_VALUE_BYTES)
            yield number, f"is longer than {MAX_VALUE_BYTES // 2**20} MiB"
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, _parsed(_decode(line, number))


def _decode(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = line[error.start]
        refuse(f"Line {number} is not UTF-8 (byte 0x{bad:02x} at {error.start + 1}).", "Save the file as UTF-8.")


def _parsed(text: str) -> dict[str, Any] | str:
    try:
        row = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        return "is nested too deeply"
    except json.JSONDecodeError as error:
        return f"is no JSON: {error.msg} at column {error.colno}"
    except ValueError as error:
        return str(error)
    return row if isinstance(row, dict) else f"is no JSON object; needed is {FORM}"


def _values(stream: BinaryIO) -> Iterator[Record]:  # noqa: C901 -- one branch per way to be broken
    """Objects of an array, or values after one another. A broken one ends the file: where the next begins is unknown."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    window, line, ended, wanted = "", 1, False, 1
    while True:
        while not ended and len(window) < wanted:
            data = stream.read(_STEP)
            ended = not data
            try:
                window += decoder.decode(data, final=ended)
            except UnicodeDecodeError:
                refuse(f"The file is not UTF-8 after line {line}.", "Save the file as UTF-8.")
        blank = _BETWEEN.match(window)
        assert blank is not None
        line += blank[0].count("\n")
        window = window[blank.end() :]
        if not window:
            if ended:
                return
            wanted = 1
            continue
        try:
            value, end = _DECODER.raw_decode(window)
        except RecursionError:
            refuse(f"The value at line {line} is nested too deeply.", "Mend it.")
        except json.JSONDecodeError as error:
            if ended:
                refuse(f"The file is no JSON at line {line + error.lineno - 1}: {error.msg}.", "Mend it.")
            if len(window) > MAX_VALUE_BYTES:
                refuse(
                    f"The value at line {line} is broken or longer than {MAX_VALUE_BYTES // 2**20} MiB.",
                    "Write one object per line.",
                )
            wanted = 2 * len(window)
            continue
        except ValueError as error:
            refuse(f"The value at line {line} is no JSON: {error}.", "Mend it.")
        yield line, value if isinstance(value, dict) else f"is no JSON object; needed is {FORM}"
        line += window.count("\n", 0, end)
        window, wanted = window[end:], 1
