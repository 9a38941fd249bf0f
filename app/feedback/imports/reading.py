"""The bytes of a file: unpacked where it is gzip, within the limit, with the place that has been reached."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from app.core.errors import InvalidError, TooLargeError
from app.settings import get_settings

GZIP, ZIP, PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
_BUFFER = 2**18

Row = tuple[int, dict[str, Any] | str]
"""Line of the file, and an item of feedback as it is sent to the API, or why there is none."""


def refuse(message: str, remedy: str, field_name: str = "file") -> NoReturn:
    raise InvalidError(message, remedy=f"{remedy} Nothing was imported.", fields={field_name: f"{message} {remedy}"})


class _Unpacked(io.RawIOBase):
    """Reads ``inner`` and counts. Raises TooLargeError past the limit: a small file may unpack to a huge one."""

    def __init__(self, inner: BinaryIO, limit: int) -> None:
        self._inner = inner
        self._limit = limit
        self._total = 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        data = self._inner.read(len(target))
        self._total += len(data)
        if self._total > self._limit:
            raise TooLargeError(
                f"The file is larger than {self._limit / 2**20:,.0f} MiB (unpacked).",
                remedy="Split it and import the parts, or raise KTO_MAX_IMPORT_BYTES. Nothing was imported.",
            )
        target[: len(data)] = data
        return len(data)


class Watched(io.FileIO):
    """A file that calls ``check`` before each read: what it raises ends whoever reads."""

    def __init__(self, path: Path, check: Callable[[], None]) -> None:
        super().__init__(path, "rb")
        self._check = check

    def readinto(self, target: Any) -> int | None:
        self._check()
        return super().readinto(target)


@dataclass
class Source:
    """An opened file."""

    raw: BinaryIO
    stream: BinaryIO
    """Unpacked bytes, from the beginning."""
    size: int
    is_parquet: bool = False
    name: str = ""
    done: int | None = field(default=None)
    """Bytes that were used, where a reader knows better than the position in the file."""

    @property
    def position(self) -> int:
        return min(self.raw.tell() if self.done is None else self.done, self.size)


@contextmanager
def opened(file: Path | str | BinaryIO, name: str = "") -> Iterator[Source]:
    """Raises InvalidError for what cannot be opened or is damaged, TooLargeError past ``max_import_bytes``."""
    if isinstance(file, (str, Path)):
        path = Path(file)
        if not path.is_file():
            refuse(f"{path} is no file.", "Check the path.")
        try:
            stream = path.open("rb")
        except OSError as error:
            refuse(f"{path} cannot be read: {error.strerror}.", "Check who may read it.")
        with stream, opened(stream, name or path.name) as source:
            yield source
        return
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    if head.startswith(ZIP):
        refuse("The file is a ZIP archive.", "Unpack it and import what is in it; gzip is read as it is.")
    packed = head.startswith(GZIP)
    # The file of an upload says that it is for writing: gzip must be told otherwise.
    inner = cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb")) if packed else file
    limited = io.BufferedReader(_Unpacked(inner, get_settings().max_import_bytes), _BUFFER)
    try:
        yield Source(file, cast("BinaryIO", limited), size, head == PARQUET, name)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        refuse("The gzip file is damaged.", "Pack it again.")
