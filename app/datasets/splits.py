"""Which side a conversation is on: train, dev or test, for good.

The side is a pure function of the project's salt and the conversation root: the first three bytes of
sha256(salt + root), as a number n below 2^24, give the tenth ``n * 10 // 2^24``; tenths 0 to 7 are train, 8 is dev, 9 is
test. Nothing else enters, so a conversation keeps its side in every later snapshot, however much data comes in between.
The salt differs between projects: nobody can choose an id that lands on a wanted side of a project that is not theirs.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from sqlalchemy import ColumnElement, Integer, case, func
from sqlalchemy import cast as sql_cast

Side = Literal["train", "dev", "test"]
SIDES: tuple[Side, Side, Side] = ("train", "dev", "test")
_RANGE = 2**24


def side_of(root: str, salt: str) -> Side:
    """80 % train, 10 % dev, 10 % test."""
    number = int.from_bytes(hashlib.sha256((salt + root).encode()).digest()[:3], "big")
    tenth = number * 10 // _RANGE
    return "train" if tenth < 8 else "dev" if tenth == 8 else "test"


def side_column(root: ColumnElement[str], salt: str) -> ColumnElement[Any]:
    """``side_of`` in SQL, for counts over many rows."""
    digest = func.sha256(func.convert_to(func.concat(salt, root), "UTF8"))
    number = sum((func.get_byte(digest, i) * 256 ** (2 - i) for i in range(3)), start=sql_cast(0, Integer))
    tenth = number * 10 / _RANGE
    return case((tenth < 8, "train"), (tenth < 9, "dev"), else_="test")
