"""The peak that is predicted from config numbers against the peak of a real step, in a process of its own: within 15 %."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

TOLERANCE = 0.15
ROOT = Path(__file__).parents[2]
ROWS = [[120, 100], [60, 180], [200, 50], [90, 90], [150, 200], [40, 60], [110, 140], [75, 120]]
LONG = [[700, 1300], [600, 400]]


def shape(hidden: int, intermediate: int, layers: int, vocab: int, heads: int = 8) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
    }


def child(**case: Any) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.alignment.memory_child", json.dumps(case)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_predicted(found: dict[str, Any]) -> None:
    """The whole process, and what the run adds to it: the libraries must not hide an error."""
    overhead = found["parts"]["overhead_bytes"]
    for floor in (0, overhead):
        predicted, measured = found["predicted"] - floor, found["measured"] - floor
        assert abs(predicted / measured - 1) <= TOLERANCE, f"{predicted / measured - 1:+.1%} above {floor}: {found}"


@pytest.mark.parametrize(
    ("model", "lengths", "recomputed"),
    [
        pytest.param(shape(256, 704, 12, 4000), ROWS, 0.5, id="deep-selective"),
        pytest.param(shape(256, 704, 12, 4000), ROWS, 1.0, id="deep-full"),
        pytest.param(shape(768, 2048, 3, 4000), ROWS, 0.0, id="wide-none"),
        pytest.param(shape(256, 512, 4, 100_000), ROWS, 1.0, id="large-vocabulary-full"),
        pytest.param(shape(256, 704, 6, 4000), LONG, 0.0, id="long-rows-none"),
    ],
)
def test_the_peak_of_a_step_is_predicted_on_a_cpu(model: Any, lengths: Any, recomputed: float) -> None:
    assert_predicted(child(model=model, lengths=lengths, recomputed=recomputed))


def test_unfused_adapters_keep_what_is_predicted() -> None:
    case = {"model": shape(256, 704, 8, 4000), "lengths": ROWS, "recomputed": 0.5, "lora": {"dropout": 0.1}}
    assert_predicted(child(**case))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: its peak is not measured")
@pytest.mark.parametrize("recomputed", [0.0, 0.5, 1.0])
def test_the_peak_of_a_step_is_predicted_on_a_gpu(recomputed: float) -> None:
    rows = [[300 + 40 * n, 200 + 60 * n] for n in range(12)]
    found = child(model=shape(2048, 5632, 16, 64_000, 16), lengths=rows, recomputed=recomputed, device="cuda")
    assert_predicted(found)
