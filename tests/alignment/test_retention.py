"""Which checkpoints stay, and that what stays can be gone on from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.alignment import tiny
from tests.alignment.test_runs import Evaluator, losses, run, told
from worker.alignment import retention
from worker.alignment.checkpoints import KEEP, clear_leftovers, latest_valid_checkpoint, validate_checkpoint
from worker.alignment.config import EvaluationSettings
from worker.alignment.events import Estimate, EvaluationResult
from worker.alignment.retention import hide_checkpoint, score_of, superfluous

EVERY_STEP = EvaluationSettings(interval_steps=1, samples_per_prompt=2, max_new_tokens=4)


class Scored(Evaluator):
    """Gives each step its AUC within prompt."""

    def __init__(self, scores: dict[int, float], promote: Any = lambda _step, _folder: None) -> None:
        super().__init__()
        self.scores = scores
        self.promote = promote

    def __call__(self, **given: Any) -> EvaluationResult:
        result = super().__call__(**given)
        self.promote(given["step"], given["attempt_dir"])
        return replace(result, heldout=replace(result.heldout, auc_within_prompt=auc(self.scores[given["step"]])))


def auc(value: float | None) -> Estimate:
    return Estimate(value=value)


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def folders(parent: Path, *numbers: int) -> Path:
    for number in numbers:
        (parent / f"step-{number:06d}").mkdir(parents=True)
    return parent


@pytest.mark.parametrize(
    ("keep", "scores", "gone"),
    [
        (1, {1: 0.6, 2: 0.7, 3: 0.5, 4: 0.9}, [1, 3]),
        (2, {1: 0.6, 2: 0.7, 3: 0.5, 4: 0.9}, [3]),
        (1, {1: 0.6, 2: 0.6, 3: 0.6}, [1, 2]),  # of equals the newest
        (1, {1: 0.1, 2: None}, [2, 3]),  # one that has no score stands last
        (1, {}, [1, 2]),  # without a dev split: the newest
        (0, {1: 0.6, 2: 0.7}, []),
        (4, {1: 0.6}, []),
    ],
)
def test_the_best_and_the_last_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int, scores: dict[int, float | None], gone: list[int]
) -> None:
    folder = folders(tmp_path, 1, 2, 3, 4)
    monkeypatch.setattr(retention, "latest_valid_checkpoint", lambda _folder: folder / "step-000004")
    assert [int(path.name[5:]) for path in superfluous(folder, scores, keep)] == gone


def test_the_newest_valid_one_stays_and_promoted_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folders(tmp_path, 1, 2, 3, 4, 5)
    (folder / "step-000001" / KEEP).touch()
    monkeypatch.setattr(retention, "latest_valid_checkpoint", lambda _folder: folder / "step-000003")  # 4, 5: damaged
    scores: dict[int, float | None] = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5}
    assert superfluous(folder, scores, 1) == [folder / "step-000002", folder / "step-000004"]


def test_a_checkpoint_promoted_in_that_moment_stays(tmp_path: Path) -> None:
    path = folders(tmp_path, 1) / "step-000001"
    (path / KEEP).touch()
    assert hide_checkpoint(path) is None
    assert (path / KEEP).exists()


def test_what_a_killed_process_left_half_done_is_cleared(tmp_path: Path) -> None:
    folder = folders(tmp_path, 1, 2, 3)
    (folder / "step-000003" / "file").touch()
    for step in (1, 2):
        assert hide_checkpoint(folder / f"step-00000{step}") is not None
    (folder / ".step-000002.removed" / KEEP).touch()  # promoted in that moment, and not yet named again
    shutil.copytree(folder / ".step-000002.removed", folder / ".step-000004.77.partial")
    clear_leftovers(folder)
    assert {path.name for path in folder.iterdir()} == {"step-000002", "step-000003"}
    assert (folder / "step-000003" / "file").exists()


def test_checkpoints_are_ranked_within_prompt_and_pooled_where_that_is_missing() -> None:
    heldout = Evaluator()(step=1, on_progress=lambda _done, _total: None)
    both = replace(heldout, heldout=replace(heldout.heldout, auc=auc(0.9), auc_within_prompt=auc(0.6)))
    pooled = replace(heldout, heldout=replace(heldout.heldout, auc=auc(0.9)))
    assert [score_of(result) for result in (both, pooled, heldout)] == [0.6, 0.9, None]


def test_a_run_keeps_its_best_its_last_and_the_promoted(tmp_path: Path) -> None:
    def promote(step: int, attempt_dir: Path) -> None:
        if step == 2:
            (attempt_dir / "checkpoints" / "step-000001" / KEEP).touch()

    spec = tiny.spec(tmp_path, keep_best=1, evaluation=EVERY_STEP)
    scores = {1: 0.2, 2: 0.5, 3: 0.9, 4: 0.4, 5: 0.6, 6: 0.3}
    assert run(spec, Scored(scores, promote)).status == "succeeded"
    folder = Path(spec.attempt_dir) / "checkpoints"
    assert steps(folder) == [1, 3, 6]
    assert list(folder.glob(".*")) == []
    removed = [(event["step"], event["data"]["path"]) for event in told(spec, "checkpoint_removed")]
    assert removed == [(step, f"checkpoints/step-{step:06d}") for step in (2, 4, 5)]
    assert {event["step"] for event in told(spec, "checkpoint_saved")} == {1, 2, 3, 4, 5, 6}


def test_a_resumed_run_leaves_earlier_attempts_alone_and_goes_on_from_the_one_before_a_damaged_one(
    tmp_path: Path,
) -> None:
    whole = tiny.spec(tmp_path, keep_best=1, evaluation=EVERY_STEP)
    scores = {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6, 5: 0.5, 6: 0.4}
    run(whole, Scored(scores))
    stopped = tiny.spec(tmp_path, attempt=2, keep_best=1, evaluation=EVERY_STEP)
    assert run(stopped, Scored(scores), lambda: len(told(stopped, "evaluation_finished")) >= 4).status == "stopped"
    before = Path(stopped.attempt_dir) / "checkpoints"
    assert steps(before) == [1, 4]
    (before / "step-000004" / "adapter_model.safetensors").write_bytes(b"half")
    source = latest_valid_checkpoint(before)
    assert source == before / "step-000001"

    third = tiny.spec(tmp_path, attempt=3, keep_best=1, evaluation=EVERY_STEP, resume_from=source)
    assert run(third, Scored(scores)).status == "succeeded"
    assert steps(before) == [1, 4]
    assert losses(third) == {step: loss for step, loss in losses(whole).items() if step > 1}
    assert steps(Path(third.attempt_dir) / "checkpoints") == [2, 6]
    validate_checkpoint(Path(third.attempt_dir) / "checkpoints" / "step-000006")
