"""What raters are called on pages: people with an account by their name, others as their source calls them."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import User

PREFIX = "user:"


def user_id_of(rater: str) -> int | None:
    """The account behind ``user:<id>``."""
    digits = rater.removeprefix(PREFIX)
    return int(digits) if digits != rater and digits.isdecimal() and len(digits) < 10 else None


def rater_names(db: Session, raters: Iterable[str]) -> dict[str, str]:
    """Rater -> name, of those who have an account."""
    ids = {number: rater for rater in raters if (number := user_id_of(rater)) is not None}
    if not ids:
        return {}
    return {ids[number]: name for number, name in db.execute(select(User.id, User.name).where(User.id.in_(ids)))}
