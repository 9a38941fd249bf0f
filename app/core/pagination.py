"""Keyset pages: the last row's key goes into the address; latency does not grow with the page number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from app.core.errors import InvalidError

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    rows: Sequence[Row]
    next_cursor: str | None


def page_of(rows: Sequence[Row], limit: int, key: Callable[[Row], Any]) -> Page[Row]:
    """``rows`` were fetched with ``limit + 1``; the extra one only says that there are more."""
    if len(rows) <= limit:
        return Page(rows, None)
    kept = rows[:limit]
    return Page(kept, str(key(kept[-1])))


def int_cursor(value: str | None) -> int | None:
    if not value:
        return None
    if not value.isdecimal() or len(value) > 18:
        raise InvalidError("The page link is not valid.", fields={"cursor": "start again from the first page"})
    return int(value)
