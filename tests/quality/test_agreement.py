"""The measures against published worked examples, hand-worked figures, the krippendorff package and a plain jackknife."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from math import nan
from typing import Any

import krippendorff
import pytest

from app.feedback.raters_agreement import Z95, agreement_table, cohen

FLEISS_EXAMPLE = [  # ten subjects, fourteen raters, five classes: the worked example of Wikipedia's article on Fleiss' kappa
    (0, 0, 0, 0, 14),
    (0, 2, 6, 4, 2),
    (0, 0, 3, 5, 6),
    (0, 3, 9, 2, 0),
    (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0),
    (3, 2, 6, 3, 0),
    (2, 5, 3, 2, 2),
    (6, 5, 2, 1, 0),
    (0, 2, 2, 3, 7),
]
KRIPPENDORFF_C = [  # Krippendorff 2011, section C: four observers, twelve units, missing data
    [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
    [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
]


def counts_of(ratings: list[list[float]], classes: list[int]) -> list[tuple[int, ...]]:
    """One pattern per unit from observers' rows."""
    return [(*(column.count(value) for value in classes), 1) for column in map(list, zip(*ratings, strict=True))]


def test_fleiss_kappa_of_a_published_example() -> None:
    found = agreement_table([(*row, 1) for row in FLEISS_EXAMPLE])
    assert found is not None
    assert found.percent.value == pytest.approx(0.378, abs=0.0005)
    assert found.fleiss.value == pytest.approx(0.210, abs=0.0005)


def test_krippendorffs_alpha_of_his_examples() -> None:
    nominal = agreement_table(counts_of(KRIPPENDORFF_C, [1, 2, 3, 4, 5]))
    assert nominal is not None
    assert nominal.alpha.value == pytest.approx(0.743, abs=0.0005)
    assert nominal.alpha.items == 11  # the twelfth unit has one value
    binary = agreement_table([(2, 0, 1), (0, 2, 5), (1, 1, 4)])  # section A: Meg and Owen
    assert binary is not None
    assert binary.alpha.value == pytest.approx(0.095, abs=0.0005)


def test_ac1_of_gwets_example_where_kappa_is_negative() -> None:
    # Gwet 2002, Kappa Statistic is Not Satisfactory: 118 and 0 agree, 5 and 2 differ, of 125
    found = agreement_table([(2, 0, 118), (1, 1, 7)])
    pair = cohen([[118, 5], [2, 0]])
    assert found is not None
    assert pair is not None
    assert found.percent.value == pytest.approx(0.944)
    assert found.ac1.value == pytest.approx(0.9408, abs=0.00005)
    assert pair.value == pytest.approx(-0.0234, abs=0.00005)


def test_cohens_kappa_by_hand() -> None:
    found = cohen([[20, 5], [10, 15]])  # observed 35/50, expected (25 * 30 + 25 * 20) / 50^2 = 1/2
    assert found is not None
    assert found.value == pytest.approx(float((Fraction(35, 50) - Fraction(1, 2)) / Fraction(1, 2)))
    assert found.low < 0.4 < found.high
    assert found.items == 50


@pytest.mark.parametrize("seed", range(5))
def test_alpha_agrees_with_the_krippendorff_package(seed: int) -> None:
    draw = random.Random(seed)
    ratings = [[draw.choice([0, 1, 1, nan]) for _ in range(60)] for _ in range(4)]
    found = agreement_table(counts_of(ratings, [1, 0]))
    assert found is not None
    expected = krippendorff.alpha(reliability_data=ratings, level_of_measurement="nominal")
    assert found.alpha.value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["percent", "fleiss", "alpha", "ac1"])
def test_intervals_are_the_jackknife_over_items(name: str) -> None:
    draw = random.Random(3)
    items = [(draw.randint(0, 3), draw.randint(1, 2)) for _ in range(40)]
    items = [item for item in items if sum(item) >= 2]

    def measure(rows: list[tuple[int, int]]) -> Any:
        table = agreement_table([(*row, 1) for row in rows])
        assert table is not None
        return getattr(table, name)

    whole = measure(items)
    left = [measure([*items[:i], *items[i + 1 :]]).value for i in range(len(items))]
    mean = sum(left) / len(left)
    error = ((len(left) - 1) / len(left) * sum((value - mean) ** 2 for value in left)) ** 0.5
    assert whole.low == pytest.approx(max(whole.value - Z95 * error, 0 if name == "percent" else -1))
    assert whole.high == pytest.approx(min(whole.value + Z95 * error, 1))
    patterns = Counter(items)
    assert agreement_table([(*row, n) for row, n in patterns.items()]) == agreement_table(
        [(*row, n) for row, n in patterns.items()]
    )
    grouped = agreement_table([(*row, n) for row, n in patterns.items()])
    assert getattr(grouped, name).low == pytest.approx(whole.low)


def test_ac1_of_thumbs_by_hand() -> None:
    # 10 completions with 2 ratings each: 6 up-up, 2 down-down, 2 split; up share 0.7, chance 0.42, observed 0.8
    found = agreement_table([(2, 0, 6), (0, 2, 2), (1, 1, 2), (1, 0, 50)])
    assert found is not None
    assert found.ac1.value == pytest.approx((0.8 - 0.42) / 0.58)
    assert found.ac1.items == 10
    assert found.ac1.low < found.ac1.value < found.ac1.high <= 1


def test_edges() -> None:
    assert agreement_table([(1, 0, 100), (2, 0, 1)]) is None
    assert cohen([[1, 0], [0, 0]]) is None
    same = agreement_table([(3, 0, 50)])
    assert same is not None
    assert (same.percent.value, same.fleiss.value, same.alpha.value, same.ac1.value) == (1, 1, 1, 1)
    assert (same.alpha.low, same.alpha.high) == (1, 1)
    single = cohen([[7, 0], [0, 0]])
    assert single is not None
    assert single.value == 1
