"""A critical alarm ends an attempt as paused, with everything saved; what a lead accepted does not pause it again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.alignment import tiny
from tests.alignment.test_runs import Evaluator, adapter, losses, run, same, told
from worker.alignment.config import EvaluationSettings, TrainSpec
from worker.alignment.evaluation.looks import evaluation_folder
from worker.alignment.events import Alarm, EvaluationResult, RunFinished
from worker.alignment.train import run_spec

EVERY_TWO = EvaluationSettings(interval_steps=2, samples_per_prompt=2, max_new_tokens=4)


def alarm(kind: Any = "loops", level: Any = "critical") -> Alarm:
    return Alarm(
        kind=kind, level=level, metric="loop_rate", reference=0.0, policy=0.4, change=0.4, text=f"{kind} rose to 40 %."
    )


class Alarming(Evaluator):
    """Raises the alarms of a step, and writes result.json as the screen does."""

    def __init__(self, alarms: dict[int, list[Alarm]]) -> None:
        super().__init__()
        self.alarms = alarms

    def __call__(self, **given: Any) -> EvaluationResult:
        result = replace(super().__call__(**given), alarms=self.alarms.get(given["step"], []))
        folder = given["attempt_dir"] / evaluation_folder(given["step"])
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(asdict(result)))
        return result


def attempt(folder: Path, number: int = 1, resume_from: Path | None = None, **changes: Any) -> TrainSpec:
    return tiny.spec(folder, attempt=number, resume_from=resume_from, evaluation=EVERY_TWO, **changes)


def saved(spec: TrainSpec, step: int) -> Path:
    return Path(spec.attempt_dir) / "checkpoints" / f"step-{step:06d}"


def test_a_critical_alarm_pauses_and_going_on_is_bit_for_bit(tmp_path: Path) -> None:
    whole = attempt(tmp_path, 9)
    run(whole, Alarming({}))
    first = attempt(tmp_path)
    loops = Alarming({4: [alarm("global", "alarm"), alarm(), alarm("empty")]})
    assert run(first, loops) == RunFinished(
        status="paused", message="Paused at step 4: loops rose to 40 %. And 1 more."
    )
    assert sorted(losses(first)) == [1, 2, 3, 4]
    assert [event["kind"] for event in tiny.events(Path(first.attempt_dir))][-2:] == ["progress", "evaluation_finished"]
    assert [found["kind"] for found in told(first, "evaluation_finished")[-1]["data"]["alarms"]] == [
        "global",
        "loops",
        "empty",
    ]
    second = replace(attempt(tmp_path, 2, saved(first, 4)), acknowledged_alarms=("loops", "empty"))
    looks = Alarming({6: [alarm()]})
    assert run(second, looks).status == "succeeded"
    assert [call["step"] for call in looks.calls] == [6]
    assert looks.calls[0]["previous"].step == 4
    assert looks.calls[0]["previous"].alarms == [alarm("global", "alarm"), alarm(), alarm("empty")]
    assert losses(first) | losses(second) == losses(whole)
    assert same(adapter(second, 6), adapter(whole, 6))


def test_an_alarm_of_another_kind_pauses_again(tmp_path: Path) -> None:
    spec = replace(attempt(tmp_path), acknowledged_alarms=("loops",))
    assert run(spec, Alarming({2: [alarm()], 4: [alarm("empty")]})).message == "Paused at step 4: empty rose to 40 %."


def test_an_attempt_that_died_between_the_alarm_and_the_pause_is_paused_by_the_next(tmp_path: Path) -> None:
    first = attempt(tmp_path)
    run(first, Alarming({4: [alarm()]}))
    second = attempt(tmp_path, 2, saved(first, 4))
    assert run(second, Alarming({})).message == "Paused at step 4: loops rose to 40 %."
    assert losses(second) == {}


@pytest.mark.parametrize("pauses", [True, False])
def test_only_critical_alarms_pause_and_only_where_they_may(tmp_path: Path, pauses: bool) -> None:
    quiet = tiny.spec(tmp_path, evaluation=replace(EVERY_TWO, pause_on_alarm=pauses))
    level = "alarm" if pauses else "critical"
    assert run(quiet, Alarming({2: [alarm(level=level)], 4: [alarm("domain", "watch")]})).status == "succeeded"


def test_the_last_checkpoint_pauses_too(tmp_path: Path) -> None:
    """Whether it may become a version is a lead's decision as well; going on then ends the run at once."""
    first = attempt(tmp_path)
    assert run(first, Alarming({6: [alarm()]})).status == "paused"
    second = replace(attempt(tmp_path, 2, saved(first, 6)), acknowledged_alarms=("loops",))
    assert run(second, Alarming({})).status == "succeeded"


def test_the_last_good_checkpoint_stays_whatever_the_scores(tmp_path: Path) -> None:
    from tests.alignment.test_retention import Scored

    class Both(Scored):
        def __call__(self, **given: Any) -> EvaluationResult:
            return replace(super().__call__(**given), alarms=[alarm()] if given["step"] >= 3 else [])

    every = replace(EVERY_TWO, interval_steps=1, pause_on_alarm=False)
    spec = tiny.spec(tmp_path, evaluation=every, keep_best=1)
    run(spec, Both({1: 0.5, 2: 0.4, 3: 0.9, 4: 0.7, 5: 0.6, 6: 0.5}))
    kept = sorted(path.name for path in (Path(spec.attempt_dir) / "checkpoints").glob("step-*"))
    assert kept == ["step-000002", "step-000003", "step-000006"]


def test_previous_looks_are_found_through_attempts_that_evaluated_nothing(tmp_path: Path) -> None:
    first = attempt(tmp_path)
    run(first, Alarming({2: [alarm()]}))
    second = replace(attempt(tmp_path, 2, saved(first, 2)), acknowledged_alarms=("loops",))
    (tmp_path / "attempt-2").mkdir()
    (tmp_path / "attempt-2" / "spec.json").write_text(json.dumps(second.to_json()))
    evaluator = Alarming({})
    run(second, evaluator, should_stop=lambda: len(losses(second)) == 1)
    assert evaluator.calls == []
    third = replace(attempt(tmp_path, 3, saved(second, 3)), acknowledged_alarms=("loops",))
    looks = Alarming({})
    run(third, looks)
    assert [(call["step"], call["previous"].step) for call in looks.calls] == [(4, 2), (6, 4)]


def test_the_exit_code_of_a_pause_is_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.alignment.evaluation.screen.screen", Alarming({2: [alarm()]}))
    spec = attempt(tmp_path)
    assert run_spec(spec) == 0
    (finished,) = told(spec, "run_finished")
    assert finished["data"] == {
        "status": "paused",
        "reason": "",
        "message": "Paused at step 2: loops rose to 40 %.",
    }
