from __future__ import annotations

from collections import Counter

from sqlalchemy import Text as SqlText
from sqlalchemy import column, select, values
from sqlalchemy.orm import Session

from app.core.ids import content_hash
from app.datasets.splits import side_column, side_of

ROOTS = [content_hash(["conversation", number]) for number in range(5000)]


def test_a_root_keeps_its_side_and_the_salt_decides_which() -> None:
    assert [side_of(root, "a") for root in ROOTS] == [side_of(root, "a") for root in ROOTS]
    assert [side_of(root, "a") for root in ROOTS] != [side_of(root, "b") for root in ROOTS]


def test_sides_of_known_roots() -> None:
    """Worked out with sha256sum: a change of the rule would move conversations between old and new snapshots."""
    # printf saltroot-0 | sha256sum: first six hex digits * 10 / 16777216, rounded down
    tenths = [2, 1, 6, 6, 4, 4, 1, 7, 6, 5, 1, 5, 3, 6, 4, 9, 7, 7, 9, 2]
    names = {8: "dev", 9: "test"}
    assert [side_of(f"root-{i}", "salt") for i in range(20)] == [names.get(tenth, "train") for tenth in tenths]


def test_proportions() -> None:
    shares = Counter(side_of(root, "salt") for root in ROOTS)
    # three standard deviations of a binomial with 5000 draws: 85 and 64
    assert abs(shares["train"] - 4000) < 85
    assert abs(shares["dev"] - 500) < 64
    assert abs(shares["test"] - 500) < 64


def test_sql_and_python_agree(db: Session) -> None:
    table = values(column("root", SqlText), name="roots").data([(root,) for root in ROOTS[:500]])
    found = db.execute(select(table.c.root, side_column(table.c.root, "sält"))).all()
    assert {row[0]: row[1] for row in found} == {root: side_of(root, "sält") for root in ROOTS[:500]}
