"""A full evaluation is asked for after a critical alarm, and at the end where there is more to sample."""

from __future__ import annotations

from typing import Any

from app.models import Checkpoint, Comparison, ComparisonArm, EvalJob, Run, Suite, SuiteSample, SuiteVersion
from tests.runs.conftest import Bench, bench
from worker.alignment.config import EvaluationSettings
from worker.full_looks import ask_for_full

__all__ = ["bench"]
CRITICAL = {"diversity": {}, "alarms": [{"level": "critical"}]}
QUIET: dict[str, Any] = {"diversity": {}, "alarms": [{"level": "watch"}]}


def checkpoint_of(bench: Bench, run: Run, step: int, *, is_last: bool = False) -> Checkpoint:
    checkpoint = Checkpoint(
        project_id=bench.project.id,
        run_id=run.id,
        attempt=1,
        step=step,
        path=f"c{step}",
        manifest_sha256="0",
        size_bytes=1,
        is_last=is_last,
    )
    bench.db.add(checkpoint)
    bench.db.flush()
    return checkpoint


def suite_of(bench: Bench, prompts_per_category: int) -> SuiteVersion:
    suite = Suite(project_id=bench.project.id, name=f"wide {prompts_per_category}", kind="diversity")
    bench.db.add(suite)
    bench.db.flush()
    digest = f"{prompts_per_category:064x}"
    version = SuiteVersion(
        project_id=bench.project.id, suite_id=suite.id, content_hash=digest, header={}, num_samples=prompts_per_category
    )
    bench.db.add(version)
    bench.db.flush()
    for number in range(prompts_per_category):
        bench.db.add(SuiteSample(version_id=version.id, number=number, sample_id=str(number), category="tea", data={}))
    bench.db.flush()
    return version


def test_the_first_critical_alarm_of_a_run_asks_once(bench: Bench) -> None:
    run = bench.launch()
    assert ask_for_full(bench.db, run, checkpoint_of(bench, run, 2), QUIET) is None
    assert ask_for_full(bench.db, run, checkpoint_of(bench, run, 3), {"diversity": None, "alarms": []}) is None
    checkpoint = checkpoint_of(bench, run, 4)
    job = ask_for_full(bench.db, run, checkpoint, CRITICAL)
    assert job is not None
    assert (job.kind, job.status, job.run_id, job.checkpoint_id) == ("full", "queued", run.id, checkpoint.id)
    assert [arm["checkpoint_id"] for arm in job.plan["arms"]] == [None, checkpoint.id]
    assert ask_for_full(bench.db, run, checkpoint_of(bench, run, 6), CRITICAL) is None
    assert bench.db.query(EvalJob).count() == 1


def test_the_last_checkpoint_asks_where_the_suite_holds_more(bench: Bench) -> None:
    for held, wanted in ((2, False), (5, True)):
        evaluation = EvaluationSettings(prompts_per_category=2, diversity_suite=suite_of(bench, held).content_hash)
        run = bench.launch(f"k{held}", evaluation=evaluation)
        assert ask_for_full(bench.db, run, checkpoint_of(bench, run, 4), QUIET) is None
        last = checkpoint_of(bench, run, 6, is_last=True)
        assert (ask_for_full(bench.db, run, last, QUIET) is not None) == wanted
    assert ask_for_full(bench.db, run, last, QUIET) is None
    comparison = Comparison(
        project_id=bench.project.id, run_id=run.id, snapshot_id=bench.snapshot.id, launch_key="c", plan={}
    )
    bench.db.add(comparison)
    bench.db.flush()
    arm = bench.launch("arm", evaluation=evaluation)
    bench.db.add(ComparisonArm(comparison_id=comparison.id, arm="dpo", seed=0, run_id=arm.id))
    bench.db.flush()
    assert ask_for_full(bench.db, arm, checkpoint_of(bench, arm, 6, is_last=True), QUIET) is None
