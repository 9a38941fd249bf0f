"""Blind A/B: people compare two arms' answers to the same prompts without being told which is which.

For each item and rater a hash says which arm stands on the left; the server computes it again when the vote comes in, so a page
never carries it. A tenth of the items comes again with the sides swapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.models import AbItem, AbTest, AbVote, Project, User

REPEATED_SHARE = 0.1
MIN_ITEMS, MAX_ITEMS = 10, 500
Side = Literal["left", "right", "tie"]


@dataclass(frozen=True, slots=True)
class Answers:
    """One arm's answers, by what they answer."""

    name: str
    texts: Mapping[str, str]
    """By the key of ``prompts``."""
    prompts: Mapping[str, tuple[list[Any], str]]
    """Messages and category."""


def create(
    db: Session,
    project: Project,
    user: User,
    *,
    name: str,
    instructions: str,
    first: Answers,
    second: Answers,
    num_items: int,
    comparison_id: int | None = None,
) -> AbTest:
    """Prompts that both arms answered, and differently, in an order by hash. Raises InvalidError where there are too few."""
    if not name.strip():
        raise InvalidError("The test needs a name.", fields={"name": "give it a name"})
    if not MIN_ITEMS <= num_items <= MAX_ITEMS:
        raise InvalidError("So many cannot be.", fields={"num_items": f"must lie between {MIN_ITEMS} and {MAX_ITEMS}"})
    keys = [key for key in first.texts if key in second.texts and first.texts[key].strip() != second.texts[key].strip()]
    if len(keys) < MIN_ITEMS:
        words = f"these two answered {len(keys)} prompts differently; at least {MIN_ITEMS} are needed"
        raise InvalidError("There is too little to compare.", fields={"second": words})
    test = AbTest(
        project_id=project.id,
        comparison_id=comparison_id,
        name=name.strip()[:200],
        instructions=instructions.strip()[:4000],
        arm_a=first.name,
        arm_b=second.name,
        status="open",
        created_by=user.id,
    )
    db.add(test)
    db.flush()
    keys.sort(key=lambda key: _digest(test.id, key))
    _add_items(db, test, keys[:num_items], first, second)
    audit.record(
        db, "ab.created", project_id=project.id, user_id=user.id, subject=test.name, items=min(len(keys), num_items)
    )
    return test


def _add_items(db: Session, test: AbTest, keys: Sequence[str], first: Answers, second: Answers) -> None:
    """Repeats of the first tenth stand among the second half, so that no one meets an item twice in a row."""
    repeats = max(1, round(len(keys) * REPEATED_SHARE))
    half = len(keys) // 2
    gap = max(1, (len(keys) - half) // repeats)
    order: list[tuple[str, bool]] = [(key, False) for key in keys[:half]]
    waiting = list(keys[:repeats])
    for place, key in enumerate(keys[half:]):
        order.append((key, False))
        if waiting and place % gap == gap - 1:
            order.append((waiting.pop(0), True))
    order += [(key, True) for key in waiting]
    originals: dict[str, AbItem] = {}
    for number, (key, is_repeat) in enumerate(order):
        prompt, category = first.prompts[key]
        item = AbItem(
            test_id=test.id,
            number=number,
            prompt=prompt,
            category=category,
            text_a=first.texts[key],
            text_b=second.texts[key],
            repeat_of=originals[key].id if is_repeat else None,
        )
        db.add(item)
        if key in originals or not is_repeat:
            db.flush()
            originals.setdefault(key, item)


def left_arm(item: AbItem, user_id: int) -> Literal["a", "b"]:
    """Which arm this rater sees on the left; a repeat has it on the other side."""
    flipped = _digest(item.test_id, f"{item.repeat_of or item.id}:{user_id}")[0] & 1
    return "a" if bool(flipped) == (item.repeat_of is not None) else "b"


def _digest(test_id: int, text: str) -> bytes:
    return hashlib.sha256(f"{test_id}:{text}".encode()).digest()


def get_test(db: Session, project: Project, test_id: int) -> AbTest:
    found = db.scalar(select(AbTest).where(AbTest.project_id == project.id, AbTest.id == test_id))
    if found is None:
        raise NotFoundError("There is no such test in this project.")
    return found


def list_tests(db: Session, project: Project, limit: int = 100) -> Sequence[AbTest]:
    """Newest first."""
    return db.scalars(
        select(AbTest).where(AbTest.project_id == project.id).order_by(AbTest.id.desc()).limit(limit)
    ).all()


@dataclass(frozen=True, slots=True)
class Progress:
    done: int
    total: int
    num_votes: int
    """Of everybody."""
    num_raters: int


def progress(db: Session, test: AbTest, user: User) -> Progress:
    """How far this rater is."""
    mine, votes, raters = db.execute(
        select(
            func.count().filter(AbVote.user_id == user.id),
            func.count(AbVote.id),
            func.count(func.distinct(AbVote.user_id)),
        )
        .join(AbItem, AbItem.id == AbVote.item_id)
        .where(AbItem.test_id == test.id)
    ).one()
    total = db.scalar(select(func.count()).select_from(AbItem).where(AbItem.test_id == test.id)) or 0
    return Progress(mine, total, votes, raters)


def next_item(db: Session, test: AbTest, user: User) -> AbItem | None:
    """The first without this rater's vote; None when all are judged."""
    voted = select(AbVote.item_id).where(AbVote.item_id == AbItem.id, AbVote.user_id == user.id).exists()
    return db.scalar(select(AbItem).where(AbItem.test_id == test.id, ~voted).order_by(AbItem.number).limit(1))


def vote(db: Session, test: AbTest, user: User, item_id: int, side: Side) -> None:
    """Once per item and rater: a second click changes nothing. Raises ConflictError once the test is closed."""
    _needs_open(db, test)
    item = db.scalar(select(AbItem).where(AbItem.test_id == test.id, AbItem.id == item_id))
    if item is None:
        raise NotFoundError("There is no such pair in this test.")
    left = left_arm(item, user.id)
    choice = "tie" if side == "tie" else left if side == "left" else "b" if left == "a" else "a"
    db.execute(
        upsert(AbVote)
        .values(item_id=item.id, user_id=user.id, choice=choice, left=left, created_at=utcnow())
        .on_conflict_do_nothing(index_elements=["item_id", "user_id"])
    )


def undo(db: Session, test: AbTest, user: User) -> bool:
    """Take back this rater's last vote; False where there is none."""
    _needs_open(db, test)
    last = db.scalar(
        select(AbVote.id)
        .join(AbItem, AbItem.id == AbVote.item_id)
        .where(AbItem.test_id == test.id, AbVote.user_id == user.id)
        .order_by(AbVote.created_at.desc(), AbVote.id.desc())
        .limit(1)
    )
    if last is None:
        return False
    db.execute(delete(AbVote).where(AbVote.id == last))
    return True


def close(db: Session, project: Project, user: User, test: AbTest) -> None:
    """No more votes; the arms are named from now on. Asking twice is harmless."""
    if test.status == "open":
        test.status, test.closed_at = "closed", utcnow()
        audit.record(db, "ab.closed", project_id=project.id, user_id=user.id, subject=test.name)


def _needs_open(db: Session, test: AbTest) -> None:
    """Holds the row, so that no vote slips in while the test is being closed."""
    if db.scalar(select(AbTest.status).where(AbTest.id == test.id).with_for_update(read=True)) != "open":
        raise ConflictError("This test is closed: its result is shown.", remedy="Nothing was saved.")
