"""Runs in the browser: list, launch form, run page, workers."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from app.core.clock import utcnow
from app.core.storage import artifact_path
from app.models import (
    Checkpoint,
    Evaluation,
    EvaluationAlarm,
    EvaluationCategory,
    EvaluationSample,
    ModelVersion,
    Role,
    Run,
    RunEvent,
    RunStatus,
    Worker,
)
from app.runs import lifecycle, pausing
from app.runs.data_findings import steps_of
from tests.runs import samples
from tests.runs.conftest import Bench

HELDOUT = {
    "num_desirable": 2,
    "num_undesirable": 2,
    "accuracy": {"value": 0.75, "low": 0.6, "high": 0.9, "n": 4},
    "auc": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 4},
    "auc_within_prompt": {"value": 0.72, "low": 0.61, "high": 0.83, "n": 2},
    "auc_length": {"value": 0.5, "low": None, "high": None, "n": 4},
    "kl": {"value": 0.1, "low": None, "high": None, "n": 4},
    "reward_desirable": 0.1,
    "reward_undesirable": -0.2,
}


def typed(bench: Bench, **changes: str) -> dict[str, str]:
    return {
        "preset": "standard",
        "base_model": bench.model,
        "snapshot_id": str(bench.snapshot.id),
        "launch_key": "k1",
        "max_length": "1024",
        "learning_rate": "5e-5",
    } | changes


def add_event(bench: Bench, run: Run, seq: int, kind: str, data: dict[str, Any], step: int = 0) -> None:
    values = {"run_id": run.id, "attempt": 1, "seq": seq, "kind": kind, "step": step, "data": data, "at": utcnow()}
    bench.db.execute(insert(RunEvent).values(values))


def test_a_first_visit_points_to_the_launch_page(page, root, bench):
    answer = page.get(root)
    assert answer.status_code == 200
    assert "No runs yet" in answer.text
    assert f"{root}/new" in answer.text


def test_the_form_holds_the_newest_snapshot_and_the_preflight(page, root, bench):
    answer = page.get(f"{root}/new")
    assert answer.status_code == 200
    assert bench.snapshot.content_hash[:8] in answer.text
    assert "60 desirable and 60 undesirable" in answer.text
    assert "kto launch --project" in answer.text
    assert "Launch run" in answer.text


def test_a_snapshot_page_links_to_the_form_by_hash(page, root, bench):
    chosen = page.get(f"{root}/new?snapshot={bench.snapshot.content_hash}").text
    assert f'<option value="{bench.snapshot.id}" selected' in chosen


def test_without_a_snapshot_the_form_leads_to_readiness(page, factory, sign_in):
    project = factory.project()
    browser = sign_in(factory.member(project, Role.LEAD))
    answer = browser.get(f"/p/{project.slug}/runs/new")
    assert "No snapshot yet" in answer.text
    assert f"/p/{project.slug}/readiness" in answer.text


def test_a_double_submit_makes_one_run(page, root, bench):
    first = page.post(root, data=typed(bench))
    second = page.post(root, data=typed(bench))
    assert (first.status_code, second.status_code) == (303, 303)
    assert first.headers["location"] == second.headers["location"]
    assert bench.db.scalar(select(func.count()).select_from(Run)) == 1
    run = bench.db.scalars(select(Run)).one()
    assert (run.config["learning_rate"], run.config["max_length"], run.config["desirable_weight"]) == (5e-5, 1024, None)


def test_errors_keep_what_was_typed(page, root, bench):
    answer = page.post(root, data=typed(bench, beta="lots", learning_rate="7e-6"))
    assert answer.status_code == 422
    assert "must be a number" in answer.text
    assert 'value="lots"' in answer.text
    assert 'value="7e-6"' in answer.text
    assert bench.db.scalar(select(func.count()).select_from(Run)) == 0


def test_a_preflight_error_refuses_the_launch(page, root, bench):
    one_class = samples.freeze(
        bench.db, bench.project, [samples.snapshot_row(n, label=True) for n in range(80)], [], name="one"
    )
    answer = page.post(root, data=typed(bench, snapshot_id=str(one_class.id)))
    assert answer.status_code == 422
    assert "KTO needs both classes" in answer.text
    assert bench.db.scalar(select(func.count()).select_from(Run)) == 0


@pytest.mark.parametrize("folder", ["nowhere", "/etc", "org/encoder"])
def test_an_encoder_that_is_not_there_is_told_by_its_field(page, root, bench, folder):
    answer = page.post(root, data=typed(bench, encoder=folder))
    assert answer.status_code == 422
    assert 'id="encoder-e"' in answer.text
    assert bench.db.scalar(select(func.count()).select_from(Run).where(Run.project_id == bench.project.id)) == 0


def test_the_preflight_part_answers_what_is_typed(page, root, bench):
    fine = page.post(f"{root}/preflight", data=typed(bench))
    assert fine.status_code == 200
    assert "<html" not in fine.text
    assert " disabled" not in fine.text
    wrong = page.post(f"{root}/preflight", data=typed(bench, base_model="/etc"))
    assert "none of the model folders" in wrong.text
    assert " disabled" in wrong.text


def test_a_viewer_cannot_launch(root, bench, factory, sign_in):
    browser = sign_in(factory.member(bench.project, Role.VIEWER))
    assert browser.get(f"{root}/new").status_code == 403
    assert browser.post(root, data=typed(bench)).status_code == 403
    assert browser.get(root).status_code == 200


def test_a_clone_marks_what_differs(page, root, bench):
    run = bench.launch(beta=0.25)
    answer = page.get(f"{root}/new?clone={run.id}")
    assert "Cloned from kto-0001" in answer.text
    assert 'value="0.25"' in answer.text


def version_of(bench: Bench, model: str, *, removed: bool = False) -> ModelVersion:
    """A version of a finished run on ``model``, its files in place."""
    run = bench.launch(f"run of {model}", base_model=model)
    path = f"runs/{run.id}/attempts/1/checkpoints/step-000004"
    artifact_path(path).mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(
        project_id=bench.project.id, run_id=run.id, attempt=1, step=4, path=path, manifest_sha256="0", size_bytes=1
    )
    checkpoint.removed_at = utcnow() if removed else None
    bench.db.add(checkpoint)
    bench.db.flush()
    number = (bench.db.scalar(select(func.max(ModelVersion.number))) or 0) + 1
    version = ModelVersion(
        project_id=bench.project.id, number=number, run_id=run.id, checkpoint_id=checkpoint.id, note=""
    )
    bench.db.add(version)
    bench.db.flush()
    return version


def test_a_run_goes_on_from_a_version_of_the_same_base(page, root, bench):
    assert "Start from" not in page.get(f"{root}/new").text
    same = version_of(bench, bench.model)
    other = version_of(bench, str(samples.model_folder("other")))
    gone = version_of(bench, str(samples.model_folder("third")), removed=True)
    text = page.get(f"{root}/new?clone={same.run_id}").text
    assert f'<option value="v{same.number}" data-base="tiny">v1: kto-0001, step 4</option>' in text
    assert f'<option value="v{other.number}" data-base="other" hidden disabled>' in text
    assert f'value="v{gone.number}"' not in text
    start = f"v{same.number}"
    for changes, words in [
        ({"init_adapter": start}, "choose whether the reference is the base model"),
        ({"init_adapter": f"v{other.number}", "reference": "base"}, "was trained on another base model"),
        ({"init_adapter": f"v{gone.number}", "reference": "base"}, f"there is no version v{gone.number}"),
        ({"init_adapter": "/etc", "reference": "base"}, "there is no version /etc"),
    ]:
        refused = page.post(root, data=typed(bench, **changes))
        assert refused.status_code == 422
        assert words in refused.text, words
    made = page.post(root, data=typed(bench, init_adapter=start, reference="adapter", launch_key="k2"))
    assert made.status_code == 303
    run = bench.db.scalars(select(Run).order_by(Run.id.desc()).limit(1)).one()
    assert (run.config["init_adapter"], run.config["reference"]) == (start, "adapter")
    again = page.get(f"{root}/new?clone={run.id}").text
    assert f'<option value="{start}" data-base="tiny" selected>' in again
    assert '<option value="adapter" selected>' in again
    shutil.rmtree(artifact_path(same.checkpoint.path))
    assert "the files of v1 are gone" in page.get(f"{root}/new?clone={run.id}").text


def test_another_objective_is_chosen_and_shown(page, root, bench):
    answer = page.post(root, data=typed(bench, objective="sft", kl_scope="microbatch", batch_size="4"))
    assert answer.status_code == 422
    assert "microbatch needs a batch_size of 16 or more" in answer.text
    assert '<details class="card advanced" open>' in answer.text
    assert page.post(root, data=typed(bench, objective="apo_zero_unpaired")).status_code == 303
    run = bench.db.scalars(select(Run)).one()
    assert (run.name, run.objective) == ("apo-0001", "apo_zero_unpaired")
    assert "APO-zero" in page.get(root).text
    started = {"attention": "SDPA per sequence", "checkpointing": "none", "desirable_weight": 1.0}
    run.summary = {"started": started | {"undesirable_weight": 1.25}}
    bench.db.flush()
    text = page.get(f"{root}/{run.id}").text
    for words in ("APO-zero, beta 0.1", "1.00 and 1.25", "SDPA per sequence", "<dt>Checkpointing</dt>"):
        assert words in text, words


@pytest.mark.parametrize(("objective", "has_kl"), [("kto", True), ("dpo", False)])
def test_dpo_draws_accuracies_where_kto_draws_kl(page, root, bench, objective, has_kl):
    text = page.get(f"{root}/{bench.launch(objective=objective).id}").text
    assert ('data-keys="kl/raw"' in text) is has_kl
    assert ('data-keys="rewards/accuracies"' in text) is not has_kl


def test_a_removed_checkpoint_keeps_its_evaluation_and_cannot_become_a_version(page, root, bench):
    version = version_of(bench, bench.model, removed=True)
    bench.db.delete(version)
    bench.db.flush()
    text = page.get(f"{root}/{version.run_id}").text
    assert "removed by the keep policy" in text
    assert "Make a version" not in text
    answer = page.post(f"/p/{bench.project.slug}/versions", data={"checkpoint_id": version.checkpoint_id})
    assert answer.status_code == 409
    assert "The files of the checkpoint at step 4 are gone." in answer.text


def test_the_run_page_shows_figures_checkpoints_and_events(page, root, bench):
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "train@gpu-1")
    lifecycle.mark_running(bench.db, run.id, 1)
    checkpoint = Checkpoint(
        project_id=bench.project.id, run_id=run.id, attempt=1, step=4, path="x", manifest_sha256="0", size_bytes=2048
    )
    bench.db.add(checkpoint)
    bench.db.flush()
    bench.db.add(
        Evaluation(
            project_id=bench.project.id,
            run_id=run.id,
            checkpoint_id=checkpoint.id,
            kind="screen",
            step=4,
            heldout=HELDOUT,
            diversity={"overall": {"similarity": {"reference": 0.3, "policy": 0.31, "change": 0.011}}},
            seconds=1.0,
        )
    )
    run.summary = {
        "metrics": {"epoch": 0.5, "tokens_per_second": 8940.0},
        "best": {"step": 4, "auc": 0.72, "low": 0.61, "high": 0.83},
    }
    run.step, run.total_steps = 4, 6
    add_event(bench, run, 1, "warning", {"text": "3 rows were skipped", "detail": {}}, step=1)
    answer = page.get(f"{root}/{run.id}")
    assert answer.status_code == 200
    for words in ("running", "8,940", "0.720", "+0.011", "3 rows were skipped", "Make a version", "Stop and save"):
        assert words in answer.text, words
    assert f'data-live="{root}/{run.id}/events"' in answer.text


def test_a_failed_run_says_why_and_what_to_do(page, root, bench):
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "gpu-1")
    lifecycle.finish(bench.db, run.id, 1, RunStatus.FAILED, reason="out_of_memory", message="Memory ran out.")
    answer = page.get(f"{root}/{run.id}")
    assert "Failed: out of memory" in answer.text
    assert "Lower the tokens of a microbatch" in answer.text
    assert "data-live=" not in answer.text


def test_a_queued_run_says_what_it_waits_for_and_can_be_cancelled(page, root, bench):
    run = bench.launch()
    assert "No worker has been heard of" in page.get(f"{root}/{run.id}").text
    assert page.post(f"{root}/{run.id}/stop").status_code == 303
    bench.db.refresh(run)
    assert run.status == "cancelled"
    assert page.post(f"{root}/{run.id}/stop").status_code == 409


def test_log_and_config_pages(page, root, bench):
    run = bench.launch()
    assert "Nothing printed" in page.get(f"{root}/{run.id}/log").text
    assert "evaluation.interval_steps" in page.get(f"{root}/{run.id}/config").text


def test_another_projects_run_is_not_found(bench, factory, sign_in):
    run = bench.launch()
    other = factory.project()
    browser = sign_in(factory.member(other, Role.LEAD))
    for end in ("", "/log", "/config", "/events", "/events.json", "/metrics.json", "/metrics.csv"):
        assert browser.get(f"/p/{other.slug}/runs/{run.id}{end}").status_code == 404, end


def test_the_list_shows_state_and_best(page, root, bench):
    run = bench.launch()
    run.summary = {"spark": [[1, 0.5], [2, 0.4]], "best": {"step": 2, "auc": 0.72, "low": None, "high": None}}
    bench.db.flush()
    answer = page.get(root)
    assert run.name in answer.text
    assert "queued" in answer.text
    assert "0.720" in answer.text


def test_the_workers_page_names_runs_of_own_projects_only(bench, factory, sign_in):
    run = bench.launch()
    now = utcnow()
    device = {"name": "A100", "kind": "cuda", "memory_bytes": 80 * 2**30}
    bench.db.add(Worker(name="train@gpu-1", devices=[device], run_id=run.id, started_at=now, heard_at=now))
    bench.db.flush()
    answer = sign_in(bench.lead).get("/workers")
    assert answer.status_code == 200
    assert "A100" in answer.text
    assert run.name in answer.text
    stranger = sign_in(factory.member(factory.project(), Role.LEAD))
    assert run.name not in stranger.get("/workers").text


def test_metrics_use_the_newest_attempt_and_are_thinned(page, root, bench):
    run = bench.launch()
    for step in range(1, 1001):
        add_event(bench, run, step, "metrics", {"loss": 1.0}, step=step)
    newer = {
        "run_id": run.id,
        "attempt": 2,
        "seq": 1,
        "kind": "metrics",
        "step": 1000,
        "data": {"loss": 0.5},
        "at": utcnow(),
    }
    bench.db.execute(insert(RunEvent).values(newer))
    add_event(bench, run, 2000, "evaluation_finished", {"step": 4, "heldout": HELDOUT, "diversity": None}, step=4)
    data = page.get(f"{root}/{run.id}/metrics.json").json()
    assert len(data["x"]) <= 400
    assert (data["x"][0], data["x"][-1], data["series"]["loss"][-1]) == (1, 1000, 0.5)
    assert data["evals"] == {"heldout/auc": [{"x": 4, "y": 0.72, "lo": 0.61, "hi": 0.83}]}
    lines = page.get(f"{root}/{run.id}/metrics.csv").text.splitlines()
    assert lines[0] == "step,attempt,at,loss"
    assert len(lines) == 1001
    assert lines[-1].startswith("1000,2,")


def test_presets_name_fields_of_the_form(page, root, bench):
    from app.runs.forms import PRESETS, LaunchForm

    for fill in PRESETS.values():
        assert set(fill) <= set(LaunchForm.model_fields)
    text = page.get(f"{root}/new").text
    assert json.dumps(PRESETS["quick"]).replace('"', "&#34;") in text
    assert steps_of(samples.small_config(bench.model, max_steps=0, num_epochs=1.5), 10) == 5


def paused_run(bench: Bench) -> Run:
    """Paused at step 4 by loops; step 2 was good. Category c1 is worst, its second prompt more than its first."""
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "gpu-1")
    lifecycle.mark_running(bench.db, run.id, 1)
    alarm = {"kind": "loops", "level": "critical", "metric": "loop_rate", "text": "Loops rose from 0 % to 40 %."}
    for step in (2, 4):
        checkpoint = Checkpoint(
            project_id=bench.project.id, run_id=run.id, attempt=1, step=step, path=f"c{step}", manifest_sha256="0",
            size_bytes=10,
        )  # fmt: skip
        bench.db.add(checkpoint)
        bench.db.flush()
        evaluation = Evaluation(
            project_id=bench.project.id, run_id=run.id, checkpoint_id=checkpoint.id, kind="screen", step=step,
            heldout=HELDOUT, diversity=None, seconds=1.0,
        )  # fmt: skip
        bench.db.add(evaluation)
        bench.db.flush()
    for number, category in enumerate(("c0", "c1")):
        rate = {"reference": 0.0, "policy": 0.2 + 0.3 * number, "change": 0.2 + 0.3 * number}
        bench.db.add(
            EvaluationCategory(
                evaluation_id=evaluation.id, category=category, num_prompts=2, metrics={"loop_rate": rate}
            )
        )
        for place in (2 * number, 2 * number + 1):
            for arm, text in (("reference", "A fine answer."), ("policy", "again " * 40 if place % 2 else "Fine too.")):
                bench.db.add(
                    EvaluationSample(
                        evaluation_id=evaluation.id, category=category, prompt_number=place, arm=arm, number=0,
                        prompt=[{"role": "user", "content": f"Question {place} <b>?"}], text=text, truncated=False,
                    )
                )  # fmt: skip
    bench.db.add(
        EvaluationAlarm(
            project_id=bench.project.id, run_id=run.id, evaluation_id=evaluation.id, step=4, kind="loops",
            level="critical", data=alarm,
        )
    )  # fmt: skip
    add_event(bench, run, 1, "evaluation_finished", {"step": 4, "heldout": HELDOUT, "alarms": [alarm]}, step=4)
    found = pausing.pause(bench.db, run.id, 1, "Paused at step 4: Loops rose from 0 % to 40 %.")
    assert found is not None
    return found


def test_a_paused_run_says_why_and_shows_its_worst_samples(bench, root, sign_in, factory):
    run = paused_run(bench)
    page = sign_in(bench.lead)
    text = page.get(f"{root}/{run.id}").text
    assert "Paused at step 4 by a critical alarm" in text
    assert "Loops rose from 0 % to 40 %." in text
    assert "without a critical alarm, step 2, is kept" in text
    assert text.index("Question 3 &lt;b&gt;?") < text.index("Question 1 &lt;b&gt;?")
    assert "Question 2" not in text
    assert f"evaluations/{run.id}/completions?step=4&amp;category=c1" in text
    assert 'name="reason"' in text
    assert "again again" in text
    assert "Decide on kto-0001" in page.get(f"/p/{bench.project.slug}/").text
    watcher = sign_in(factory.member(bench.project, Role.VIEWER, "Vi Ewer"))
    seen = watcher.get(f"{root}/{run.id}").text
    assert 'name="reason"' not in seen
    assert "Loops rose" in seen


def test_going_on_from_the_page(bench, page, root, sign_in, factory):
    run = paused_run(bench)
    refused = page.post(f"{root}/{run.id}/go-on", data={"reason": " "})
    assert refused.status_code == 422
    assert "say why the run goes on" in refused.text
    watcher = sign_in(factory.member(bench.project, Role.VIEWER, "Vi Ewer"))
    assert watcher.post(f"{root}/{run.id}/go-on", data={"reason": "I may not."}).status_code == 403
    assert run.status == "paused"
    page = sign_in(bench.lead)
    page.post(f"{root}/{run.id}/go-on", data={"reason": "The prompts ask for lists."})
    bench.db.refresh(run)
    assert (run.status, run.acknowledged_alarms) == ("queued", ["loops"])
    alarm = bench.db.scalars(select(EvaluationAlarm)).one()
    assert (alarm.resolution, alarm.reason, alarm.resolved_by) == (
        "accepted",
        "The prompts ask for lists.",
        bench.lead.id,
    )
    assert alarm.resolved_at is not None
    assert "The prompts ask for lists." in page.get(f"{root}/{run.id}").text


def test_a_paused_run_is_ended_with_its_checkpoints(bench, page, root):
    run = paused_run(bench)
    page.post(f"{root}/{run.id}/stop")
    bench.db.refresh(run)
    assert run.status == "cancelled"
    assert bench.db.scalar(select(func.count()).where(Checkpoint.removed_at.is_(None))) == 2
