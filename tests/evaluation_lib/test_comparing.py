from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worker.alignment.evaluation.comparing import calibration, pooled_auc, prompt_aucs, roots


def row(prompt: str, label: bool, logratio: float) -> dict[str, Any]:
    return {"prompt_key": prompt, "root": prompt[0], "label": label, "logratio": logratio}


ROWS = [
    row("a1", True, 2.0),
    row("a1", False, 1.0),
    row("a1", False, 3.0),
    row("a2", True, 0.0),
    row("b1", True, 1.0),
    row("b1", False, 1.0),
]


def test_each_prompt_is_ranked_by_itself() -> None:
    assert prompt_aucs(ROWS) == {"a1": 0.5, "b1": 0.5}
    assert roots(ROWS) == {"a1": "a", "a2": "a", "b1": "b"}
    assert pooled_auc(ROWS).value == pytest.approx((2 + 0 + 0.5 + 0.5) / 9)
    assert pooled_auc([]).value is None
    assert pooled_auc([row("a", True, 1.0)]).value is None


def test_calibration_by_hand() -> None:
    logit = np.log(3.0)
    rows = [row(str(i), i < 3, logit) for i in range(4)] + [row(str(i), i == 4, -logit) for i in range(4, 8)]
    found = calibration(rows, 1.0, num_bins=2)
    assert found is not None
    assert [(round(b.predicted, 9), b.observed, b.count) for b in found.bins] == [(0.25, 0.25, 4), (0.75, 0.75, 4)]
    assert found.ece == pytest.approx(0.0)
    assert found.accuracy == pytest.approx(6 / 8)
    double = calibration(rows, 2.0, num_bins=2)
    assert double is not None
    assert double.ece == pytest.approx(0.9 - 0.75)
    assert double.accuracy == found.accuracy
    assert calibration(rows[:8], 1.0) is None
