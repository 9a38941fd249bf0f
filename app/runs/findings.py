"""What a check of the preflight has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    level: Literal["error", "warning", "ok"]
    code: str
    text: str
    remedy: str = ""
    field: str = ""
    """The form's field that mends it."""
