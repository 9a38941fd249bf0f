from __future__ import annotations

from typing import Any

import pytest

from tests.alignment import tiny
from worker.alignment.weights import resolve_weights

RARE = [True] * 10 + [False] * 90


@pytest.mark.parametrize(
    ("settings", "labels", "expected"),
    [
        ({}, RARE, (9.0, 1.0)),  # 10 * 9 / 90 = 1: the least that the paper advises
        ({}, [not label for label in RARE], (1.0, 6.75)),  # 90 / (6.75 * 10) = 4/3
        ({}, [True] * 55 + [False] * 45, (1.0, 1.0)),  # within advice as it is
        ({"desirable_weight": 2.0}, RARE, (2.0, 1.0)),
        ({"undesirable_weight": 2.0}, RARE, (1.0, 2.0)),
        ({"desirable_weight": 2.0, "undesirable_weight": 0.5}, RARE, (2.0, 0.5)),
        ({}, [True] * 5, (1.0, 1.0)),
        ({"desirable_weight": 2.0}, [True] * 5, (1.0, 1.0)),
        ({"objective": "dpo", "desirable_weight": 2.0}, RARE, (1.0, 1.0)),
        ({"objective": "sft"}, RARE, (1.0, 1.0)),
        ({"objective": "apo_zero_unpaired"}, RARE, (9.0, 1.0)),
    ],
)
def test_weights_in_use(settings: dict[str, Any], labels: list[bool], expected: tuple[float, float]) -> None:
    found = resolve_weights(tiny.config(**settings), labels)
    assert (found.desirable, found.undesirable) == pytest.approx(expected, abs=2e-3)  # rounded into the band
