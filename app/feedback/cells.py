"""Cells of CSV files that people open in spreadsheets."""

from __future__ import annotations

from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def safe_cell(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV injection).

    Imports of this product take it off again.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
