"""Which side a conversation is on: train, dev or test, for good.

The side is a pure function of the project's salt and the conversation root: the first three bytes of
sha256(salt + root), as a number n below 2^24, give the tenth ``n * 10 // 2^24``; tenths 0 to 7 are train, 8 is dev, 9 is
test. Nothing else enters, so a conversation keeps its side in every later snapshot, however much data comes in between.
The salt differs between projects: nobody can choose an id that lands on a wanted side of a project that is not theirs.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from sqlalchemy import ColumnElement, Integer, SQLColumnExpression, case, func
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import BIT

Side = Literal["train", "dev", "test"]
SIDES: tuple[Side, Side, Side] = ("train", "dev", "test")
_RANGE = 2**24


def side_of(root: str, salt: str) -> Side:
    """80 % train, 10 % dev, 10 % test."""
    number = int.from_bytes(hashlib.sha256((salt + root).encode()).digest()[:3], "big")
    tenth = number * 10 // _RANGE
    return "train" if tenth < 8 else "dev" if tenth == 8 else "test"


def side_column(root: SQLColumnExpression[str], salt: str) -> ColumnElement[Any]:
    """``side_of`` in SQL, for counts over many rows."""
    digest = func.encode(func.sha256(func.convert_to(func.concat(salt, root), "UTF8")), "hex")
    number = sql_cast(sql_cast(func.concat("x", func.substr(digest, 1, 6)), BIT(24)), Integer)
    return case({8: "dev", 9: "test"}, value=number * 10 // _RANGE, else_="train")
