from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from app.core.errors import ConflictError, InvalidError
from app.evaluations import comparison_form, comparisons
from app.models import Comparison, EvalJob, Project, Run
from tests.comparisons.support import (
    evaluated,
    finish_run,
    job_folder_of,
    kto_run,
    suite_results,
    suite_version,
    write_heldout,
)
from worker.alignment.config import AlignmentConfig
from worker.comparisons import advance_comparisons, finish

KEY = {"launch_key": "k-1"}


@pytest.fixture
def scene(factory: Any, db: Any) -> Any:
    project = factory.project()
    return project, factory.member(project), kto_run(db, project)


def start(db: Any, scene: Any, **typed: str) -> Comparison:
    project, user, run = scene
    own = comparisons.own_knobs(run)
    form = comparison_form.parse(KEY | {"paired": "1"} | typed, own)
    return comparisons.launch(db, project, user, run, form)


def run_of(comparison: Comparison, arm: str, seed: int = 0, point: int = 0) -> Run:
    return next(a.run for a in comparison.arms if (a.arm, a.seed, a.point) == (arm, seed, point) and a.run)


def reloaded(db: Any, comparison: Comparison) -> Comparison:
    db.expire_all()
    return comparisons.get_comparison(db, db.get_one(Project, comparison.project_id), comparison.id)


def test_every_arm_has_the_runs_budget(db: Any, scene: Any) -> None:
    comparison = reloaded(db, start(db, scene))
    ours = AlignmentConfig.from_json(scene[2].config)
    assert [arm.arm for arm in comparison.arms] == ["reference", "dpo", "kto_paired", "kto_all"]
    assert run_of(comparison, "kto_all").id == scene[2].id, "the run itself is the first seed"
    dpo = AlignmentConfig.from_json(run_of(comparison, "dpo").config)
    paired = AlignmentConfig.from_json(run_of(comparison, "kto_paired").config)
    assert (dpo.objective, dpo.batch_size * 2, dpo.max_steps) == ("dpo", ours.batch_size, 30)
    assert (paired.objective, paired.data, paired.batch_size, paired.max_steps) == ("kto", "paired", 8, 30)
    for other in (dpo, paired):
        for name in ("base_model", "lora", "max_length", "lr_schedule", "warmup_ratio", "max_pairs_per_prompt", "seed"):
            assert getattr(other, name) == getattr(ours, name)
        assert other.evaluation.samples_per_prompt == ours.evaluation.samples_per_prompt
        assert not other.evaluation.pause_on_alarm
    assert {run_of(comparison, arm).snapshot_id for arm in ("dpo", "kto_paired")} == {scene[2].snapshot_id}
    assert comparison.data_use == {
        "kto_all": {"labels": 80, "pairs": 0, "set_aside": 0},
        "kto_paired": {"labels": 60, "pairs": 40, "set_aside": 20},
        "dpo": {"labels": 60, "pairs": 40, "set_aside": 20},
    }


def test_seeds_and_each_arms_own_knobs_make_runs(db: Any, scene: Any) -> None:
    typed = {"num_seeds": "2", "dpo_beta": "0.1, 0.3", "kto_learning_rate": "1e-4", "system_prompt": "Be brief."}
    comparison = reloaded(db, start(db, scene, **typed))
    found = [(arm.arm, arm.seed, arm.point) for arm in comparison.arms]
    assert len(found) == len(set(found)) == 2 + 2 * 2 + 2 * 2 + 2 * 2
    assert run_of(comparison, "dpo", 1, 1).config["beta"] == 0.3
    assert run_of(comparison, "dpo", 1, 1).config["seed"] == 1
    assert run_of(comparison, "kto_all", 0, 1).config["learning_rate"] == 1e-4
    runs = {arm.run_id for arm in comparison.arms if arm.run_id}
    assert len(runs) == 12


def test_a_second_click_starts_nothing_and_a_second_comparison_waits(db: Any, scene: Any) -> None:
    first = start(db, scene)
    assert start(db, scene).id == first.id
    assert len(db.scalars(select(Run).where(Run.project_id == scene[0].id)).all()) == 3
    with pytest.raises(ConflictError, match="on its way"):
        start(db, scene, launch_key="k-2")


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"num_seeds": "6"}, "num_seeds"),
        ({"num_seeds": "two"}, "num_seeds"),
        ({"dpo_beta": "0.1 x"}, "dpo_beta"),
        ({"dpo_learning_rate": "inf"}, "dpo_learning_rate"),
        ({"kto_beta": " ".join(str(0.1 + i / 100) for i in range(10))}, "kto_beta"),
        ({"num_seeds": "5", "dpo_beta": "1 2 3 4 5 6 7 8 9"}, "num_seeds"),
        ({"primary": "999999"}, "primary"),
        ({"judge": "999999"}, "judge"),
        ({"guard-999999": "1"}, ""),
        ({"system_prompt": "x" * 9000}, "system_prompt"),
    ],
)
def test_what_does_not_fit_is_named(db: Any, scene: Any, typed: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidError) as caught:
        start(db, scene, **typed)
    assert field in caught.value.fields


def test_only_a_kto_run_that_trains_can_be_compared(db: Any, scene: Any) -> None:
    project, user, _ = scene
    for changes, words in (({"status": "failed"}, "cancelled or failed"), ({"total_steps": 0}, "begun to train")):
        run = kto_run(db, project, **changes)
        with pytest.raises(ConflictError, match=words):
            start(db, (project, user, run), launch_key=f"k-{run.id}")


def test_checkpoints_and_knobs_are_chosen_on_dev(db: Any, scene: Any, factory: Any) -> None:
    comparison = reloaded(db, start(db, scene, dpo_beta="0.1 0.3 0.5"))
    advance_comparisons()
    assert comparison.status == "training", "its runs are not over"
    evaluated(factory, scene[2], 10, 0.7)
    best_kto = evaluated(factory, scene[2], 20, 0.8)
    evaluated(factory, run_of(comparison, "kto_paired"), 30, 0.66)
    evaluated(factory, run_of(comparison, "dpo", 0, 0), 30, 0.61)
    best_dpo = evaluated(factory, run_of(comparison, "dpo", 0, 1), 20, 0.72)
    evaluated(factory, run_of(comparison, "dpo", 0, 1), 30, 0.71)
    evaluated(factory, run_of(comparison, "dpo", 0, 2), 30, 0.99)
    for arm in comparison.arms:
        if arm.run is not None:
            finish_run(db, arm.run)
    finish_run(db, run_of(comparison, "dpo", 0, 2), "failed")
    advance_comparisons()
    comparison = reloaded(db, comparison)
    assert comparison.status == "evaluating"
    assert {arm.checkpoint_id for arm in comparison.arms if arm.is_chosen and arm.arm in ("dpo", "kto_all")} == {
        best_kto.id,
        best_dpo.id,
    }
    assert f"{run_of(comparison, 'dpo', 0, 2).name} is failed." in comparison.message
    job = db.scalars(select(EvalJob).where(EvalJob.comparison_id == comparison.id)).one()
    assert job.plan["heldout"] == "test"
    assert [arm["name"] for arm in job.plan["arms"]] == ["reference", "dpo-0", "kto_paired-0", "kto_all-0"]
    advance_comparisons()
    assert len(db.scalars(select(EvalJob).where(EvalJob.comparison_id == comparison.id)).all()) == 1


def test_without_a_baseline_the_comparison_fails_in_words(db: Any, scene: Any, factory: Any) -> None:
    comparison = reloaded(db, start(db, scene))
    evaluated(factory, scene[2], 30, 0.8)
    dpo = run_of(comparison, "dpo")
    for arm in comparison.arms:
        if arm.run is not None:
            finish_run(db, arm.run)
    dpo.status, dpo.failure_reason = "failed", "out_of_memory"
    db.flush()
    advance_comparisons()
    comparison = reloaded(db, comparison)
    assert comparison.status == "failed"
    assert comparison.message.startswith(f"DPO cannot be judged. {dpo.name} is failed (out of memory).")
    paired = run_of(comparison, "kto_paired")
    assert f"{paired.name} has no evaluated checkpoint with both labels on the dev split." in comparison.message


def evaluating(
    db: Any, scene: Any, factory: Any, typed: dict[str, str] | None = None, similarity: float = 0.3
) -> tuple[Comparison, EvalJob]:
    comparison = reloaded(db, start(db, scene, **(typed or {})))
    for arm in comparison.arms:
        if arm.run is not None:
            evaluated(factory, arm.run, 30, 0.7, similarity if arm.arm == "kto_all" else 0.3)
            finish_run(db, arm.run)
    advance_comparisons()
    job = db.scalars(select(EvalJob).where(EvalJob.comparison_id == comparison.id)).one()
    return reloaded(db, comparison), job


def heldout_files(job: EvalJob, kto: float = 1.6, dpo: float = 0.2, paired: float = 0.2) -> None:
    effects = {"reference": 0.0, "dpo-0": dpo, "kto_paired-0": paired, "kto_all-0": kto}
    for number, (name, effect) in enumerate(effects.items()):
        write_heldout(job_folder_of(job), name, effect, seed=number)


def test_held_out_votes_decide_where_no_suite_does(db: Any, scene: Any, factory: Any) -> None:
    comparison, job = evaluating(db, scene, factory)
    heldout_files(job)
    finish(job.id)
    comparison = reloaded(db, comparison)
    assert comparison.status == "succeeded"
    decision = comparison.decision
    assert decision is not None
    assert decision["verdict"] == "better"
    assert decision["headline"].startswith("KTO is better than DPO on AUC within the prompt on held-out votes")
    main = decision["contrasts"][0]
    assert (main["primary"]["num_units"], main["primary"]["num_clusters"]) == (120, 60)
    assert main["guards"][0]["name"] == "Diversity kept"
    assert main["guards"][0]["state"] == "pass"
    summaries = {arm.arm: arm.summary for arm in comparison.arms}
    assert summaries["reference"]["auc"]["value"] == 0.5
    assert summaries["kto_all"]["auc"]["value"] > 0.7
    assert summaries["kto_all"]["num_rows"] == 240, "the torn line counts for nothing"
    assert decision["evidence"]["calibration"]["kto_all"]["beta"] == 0.1
    assert len(decision["evidence"]["calibration"]["kto_all"]["bins"]) == 9
    before = comparison.finished_at
    finish(job.id)
    assert reloaded(db, comparison).finished_at == before


def test_a_collapse_is_a_failed_guard(db: Any, scene: Any, factory: Any) -> None:
    comparison, job = evaluating(db, scene, factory, similarity=0.5)
    heldout_files(job)
    finish(job.id)
    decision = reloaded(db, comparison).decision
    assert decision is not None
    assert decision["verdict"] == "guard_failed"
    assert decision["headline"] == "KTO is worse than DPO on Diversity kept."


def test_suites_decide_and_guard_in_their_own_direction(db: Any, scene: Any, factory: Any) -> None:
    project = scene[0]
    bot = suite_version(factory, project, "support-bot", num_samples=150)
    harm = suite_version(factory, project, "harm", "redteam", num_samples=150)
    kind = suite_version(factory, project, "kind", "benign", num_samples=150)
    typed = {"primary": str(bot.id), f"guard-{harm.id}": "1", f"guard-{kind.id}": "1"}
    comparison, job = evaluating(db, scene, factory, typed)
    assert job.plan["suite_versions"] == [bot.id, harm.id, kind.id]
    heldout_files(job)
    shares = {"reference": 0.5, "dpo-0": 0.5, "kto_paired-0": 0.5, "kto_all-0": 0.8}
    for seed, (arm, share) in enumerate(shares.items()):
        suite_results(factory, job, bot, arm, share, seed=seed, text="word " * (5 + seed))
        suite_results(factory, job, harm, arm, 1.0 if arm != "kto_all-0" else 0.6, seed=seed)
        suite_results(factory, job, kind, arm, 1.0, seed=seed)
    finish(job.id)
    comparison = reloaded(db, comparison)
    decision = comparison.decision
    assert decision is not None
    main = decision["contrasts"][0]
    assert main["primary"]["name"] == "support-bot"
    assert main["primary"]["value"] == pytest.approx(0.3, abs=0.06)
    states = {guard["name"]: guard["state"] for guard in main["guards"]}
    assert states["Harmful requests refused (harm)"] == "fail"
    assert states["Benign requests answered (kind)"] == "pass" or main["guards"][1]["value"] == 0
    assert decision["verdict"] == "guard_failed"
    assert decision["evidence"]["auc"]["primary"]["unit"] == "auc"
    summaries = {arm.arm: arm.summary for arm in comparison.arms}
    assert summaries["kto_all"]["score"]["value"] == pytest.approx(0.8, abs=0.06)
    assert summaries["kto_all"]["words"] is not None


def test_a_job_that_failed_fails_the_comparison(db: Any, scene: Any, factory: Any) -> None:
    comparison, job = evaluating(db, scene, factory)
    job.status, job.message = "failed", "The evaluation process was killed."
    db.flush()
    advance_comparisons()
    comparison = reloaded(db, comparison)
    assert (comparison.status, comparison.decision) == ("failed", None)
    assert "was killed" in comparison.message


def test_files_that_are_missing_are_no_evidence(db: Any, scene: Any, factory: Any) -> None:
    comparison, job = evaluating(db, scene, factory)
    write_heldout(job_folder_of(job), "kto_all-0", 1.0)
    finish(job.id)
    decision = reloaded(db, comparison).decision
    assert decision is not None
    assert decision["verdict"] == "not_enough"


def test_cancelling_stops_its_own_runs_only(db: Any, scene: Any) -> None:
    project, user, run = scene
    comparison = reloaded(db, start(db, scene))
    comparisons.cancel(db, project, user, comparison)
    assert comparison.status == "cancelled"
    assert {arm.run.status for arm in comparison.arms if arm.run and arm.run_id != run.id} == {"cancelled"}
    assert run.status == "succeeded"
    with pytest.raises(ConflictError):
        comparisons.cancel(db, project, user, comparison)
