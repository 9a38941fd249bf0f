"""What a run recomputes: as planned, as measured, as its checkpoint says; and what it says where memory ran out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.alignment import tiny
from tests.alignment.test_runs import losses, run, told
from worker.alignment import planning, trainer
from worker.alignment.checkpoints import validate_checkpoint
from worker.alignment.memory import StepCost
from worker.alignment.memory_plan import DoesNotFitError
from worker.alignment.train import classify

LIMIT = 1.0
"""GiB: the tiny model fits with ease, but a step is predicted to need over half of it (the process itself does)."""


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as in a process that has just begun; a test's own has run others before."""
    monkeypatch.setattr(planning, "resident_bytes", lambda: 600 << 20)


def measured(monkeypatch: pytest.MonkeyPatch, *peaks_gib: float | Exception) -> list[float | Exception]:
    """Let the steps that are tried first need these peaks; what is left was not tried."""
    left = list(peaks_gib)

    def measure(*_given: Any) -> StepCost:
        peak = left.pop(0)
        if isinstance(peak, Exception):
            raise peak
        return StepCost(peak_bytes=round(peak * 2**30), before_bytes=0, seconds=1.0)

    monkeypatch.setattr(planning, "measure_step", measure)
    return left


def recomputed(spec: Any, step: int = 2) -> int:
    path = Path(spec.attempt_dir) / "checkpoints" / f"step-{step:06d}"
    return int(validate_checkpoint(path).pins["recomputed_layers"])


def test_recomputed_layers_change_no_loss_and_stay_on_resume(tmp_path: Path) -> None:
    plain, full = (
        tiny.spec(tmp_path, attempt=n, max_steps=6, checkpointing=name) for n, name in ((1, "none"), (2, "full"))
    )
    for spec in (plain, full):
        run(spec)
    assert losses(plain) == losses(full)
    assert (recomputed(plain, 3), recomputed(full, 3)) == (0, 2)
    told_words = [told(spec, "run_started")[0]["data"]["checkpointing"] for spec in (plain, full)]
    assert told_words == ["none", "every layer recomputed"]
    third = tiny.spec(
        tmp_path,
        attempt=3,
        max_steps=6,
        checkpointing="full",
        resume_from=Path(full.attempt_dir) / "checkpoints" / "step-000003",
    )
    run(third)
    assert recomputed(third, 6) == 2
    assert losses(third) == {step: loss for step, loss in losses(full).items() if step > 3}


@pytest.mark.parametrize(
    ("peaks", "layers"),
    [
        ((0.9,), 0),
        ((1.1, 0.9), 1),
        ((torch.OutOfMemoryError("CUDA out of memory"), 1.2, 0.9), 2),
    ],
)
def test_a_step_that_is_close_is_tried_and_recomputes_until_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peaks: tuple[Any, ...], layers: int
) -> None:
    left = measured(monkeypatch, *peaks)
    spec = tiny.spec(tmp_path, max_steps=2, memory_limit_gib=LIMIT)
    run(spec)
    assert left == []
    assert recomputed(spec) == layers
    notices = [event["data"] for event in told(spec, "notice") if "measured_bytes" in event["data"]["detail"]]
    moments = 8 * told(spec, "run_started")[0]["data"]["num_trainable_parameters"]
    assert [notice["detail"]["measured_bytes"] for notice in notices] == [round(peaks[-1] * 2**30) + moments]
    assert (f"{layers} of 2 layers" if layers else "Nothing is recomputed") in notices[0]["text"]
    words = ("none", "the first 1 of 2 layers recomputed", "every layer recomputed")
    assert told(spec, "run_started")[0]["data"]["checkpointing"] == words[layers]


def test_a_step_that_never_fits_is_refused_with_what_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 3.0, 3.0, 3.0)
    with pytest.raises(DoesNotFitError, match=r"^With every layer recomputed 3\.0 GiB were needed: ") as caught:
        run(tiny.spec(tmp_path, memory_limit_gib=LIMIT))
    assert classify(caught.value)[0] == "out_of_memory"


def test_trap_15_ample_memory_recomputes_nothing_and_tries_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = measured(monkeypatch, 9.0)
    ample = tiny.spec(tmp_path, max_steps=1, memory_limit_gib=64.0)
    run(ample)
    assert recomputed(ample, 1) == 0
    run(tiny.spec(tmp_path, attempt=2, max_steps=1, memory_limit_gib=LIMIT, checkpointing="none"))
    assert left == [9.0]


def test_the_real_trial_leaves_no_trace(tmp_path: Path) -> None:
    tried, plain = (
        tiny.spec(tmp_path, attempt=n, max_steps=2, memory_limit_gib=limit) for n, limit in ((1, 1e4), (2, 64.0))
    )
    share, planning.PROBED_SHARE = planning.PROBED_SHARE, 0.0
    try:
        run(tried)
    finally:
        planning.PROBED_SHARE = share
    run(plain)
    (notice,) = [event["data"] for event in told(tried, "notice") if "measured_bytes" in event["data"]["detail"]]
    assert notice["detail"]["measured_bytes"] > 10**8
    assert losses(tried) == losses(plain)


def test_memory_that_runs_out_in_a_step_is_told_with_settings_that_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(trainer, "backward_step", exhausted)
    monkeypatch.setattr(planning, "resident_bytes", lambda: 1 << 20)  # else nothing that could be set would matter here
    with pytest.raises(DoesNotFitError, match=r"^Memory ran out in step 1: use ") as caught:
        run(tiny.spec(tmp_path, memory_limit_gib=64.0))
    assert str(caught.value).count(" GiB)") == 3
    assert classify(caught.value)[0] == "out_of_memory"
