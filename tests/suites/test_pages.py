"""The pages of suites, jobs, results, audits and endpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.storage import artifact_path
from app.evaluations import suite_words, suites
from app.models import EvalJob, Project, Role, Suite, SuiteResult, SuiteVersion
from app.settings import get_settings
from tests.evaluations.support import checkpoint_of, evaluation_in
from tests.runs import samples
from tests.suites import support
from worker.alignment.evaluate_files import read_lines
from worker.job_results import record_results
from worker.job_spec import job_folder

SignIn = Callable[..., TestClient]


@pytest.fixture
def project(db: Session, factory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(get_settings(), "data_dir", tmp_path)
    found: Project = factory.project()
    return found


@pytest.fixture
def lead(factory: Any, sign_in: SignIn, project: Project) -> TestClient:
    return sign_in(factory.member(project, Role.LEAD))


@pytest.fixture
def run(db: Session, factory: Any, project: Project, tmp_path: Path) -> Any:
    from app.runs import service

    snapshot = samples.freeze(db, project, samples.balanced(), samples.mixed_dev(), name=f"s-{project.id}")
    config = samples.small_config(samples.model_folder())
    made = service.launch(db, project, None, config=config, snapshot=snapshot, launch_key=f"k{project.id}")
    checkpoint = checkpoint_of(factory, made)
    evaluation_in(factory, made, checkpoint, tmp_path)
    return made, checkpoint


def root(project: Project) -> str:
    return f"/p/{project.slug}/suites"


def test_an_empty_project_offers_the_first_suite(lead: TestClient, project: Project) -> None:
    page = lead.get(root(project)).text
    assert "No suite yet" in page
    assert f"{root(project)}/new" in page


def test_a_suite_is_written_edited_and_goes_back(lead: TestClient, project: Project, db: Session) -> None:
    made = lead.post(root(project), data={"header": support.HEADER, "samples": support.SAMPLES})
    assert made.status_code == 303
    suite = db.scalars(select(Suite).where(Suite.project_id == project.id)).one()
    address = f"{root(project)}/{suite.id}"
    assert made.headers["location"] == address
    first = suite.head_id
    again = lead.post(address, data={"header": "# a note\n" + support.HEADER, "samples": support.SAMPLES})
    assert again.status_code == 303
    db.refresh(suite)
    assert suite.head_id == first  # the same content is the same version
    changed = support.HEADER.replace("cat", "dog")
    lead.post(address, data={"header": changed, "samples": support.SAMPLES})
    db.refresh(suite)
    assert suite.head_id != first
    assert len(suites.history(db, suite)) == 2
    lead.post(f"{address}/head", data={"version_id": str(first)})
    db.refresh(suite)
    assert suite.head_id == first
    assert "the cat 3" in lead.get(address).text


def test_a_broken_suite_keeps_what_was_typed_and_names_the_lines(
    lead: TestClient, project: Project, db: Session
) -> None:
    bad = '{"id": "a", "input": "one"}\nnot json\n{"id": "b", "input": "two", "checks": [{"type": "contians"}]}\n'
    header = support.HEADER + "  - {type: regex, value: '('}\n"
    answer = lead.post(root(project), data={"header": header, "samples": bad})
    assert answer.status_code == 422
    assert "Line 2" in answer.text
    assert "Line 3" in answer.text
    assert "contains" in answer.text  # the nearest name
    assert "not json" in answer.text
    assert db.scalar(select(SuiteVersion.id).where(SuiteVersion.project_id == project.id)) is None


def test_the_editor_gives_back_what_makes_the_same_version(lead: TestClient, project: Project, db: Session) -> None:
    version = support.version_in(db, project)
    import html
    import re

    page = lead.get(f"{root(project)}/{version.suite_id}/edit").text
    header, body = (html.unescape(text) for text in re.findall(r"<textarea[^>]*>(.*?)</textarea>", page, re.DOTALL))
    lead.post(f"{root(project)}/{version.suite_id}", data={"header": header, "samples": body})
    assert db.get_one(Suite, version.suite_id).head_id == version.id


def test_downloads_can_be_imported_again(lead: TestClient, project: Project, db: Session) -> None:
    version = support.version_in(db, project)
    address = f"{root(project)}/{version.suite_id}"
    header, body = (lead.get(f"{address}/{name}").content for name in ("suite.yaml", "samples.jsonl"))
    files = {"file": ("suite.yaml", header), "samples": ("samples.jsonl", body)}
    answer = lead.post(f"{root(project)}/import", data={"format": "suite"}, files=files)
    assert answer.status_code == 303
    assert db.get_one(Suite, version.suite_id).head_id == version.id


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe", b"[1, 2, 3]", b"{" * 5000, b'{"nothing": "known"}\n', b"a: &a [*a]\n"]
)
@pytest.mark.parametrize("format_name", ["suite", "auto", "unknown"])
def test_a_file_of_another_kind_is_refused_in_words(
    lead: TestClient, project: Project, db: Session, content: bytes, format_name: str
) -> None:
    answer = lead.post(f"{root(project)}/import", data={"format": format_name}, files={"file": ("x.txt", content)})
    assert answer.status_code == 422
    assert "field-error" in answer.text or "does not fit" in answer.text
    assert db.scalar(select(Suite.id).where(Suite.project_id == project.id)) is None


def test_a_rated_down_completion_becomes_a_sample_with_one_click(
    lead: TestClient, project: Project, db: Session, factory: Any
) -> None:
    completion = factory.completion(project, text="A wrong answer.", prompt="When are you open?", category="hours")
    page = lead.get(f"/p/{project.slug}/completions/{completion.id}").text
    assert f"/suites/add?completion_id={completion.id}" in page
    assert "regressions" in lead.get(f"{root(project)}/add?completion_id={completion.id}").text
    for _ in range(2):  # a second click changes nothing
        answer = lead.post(f"{root(project)}/add", data={"completion_id": str(completion.id), "name": ""})
        assert answer.status_code == 303
    suite = db.scalars(select(Suite).where(Suite.project_id == project.id)).one()
    assert suite.head is not None
    assert (suite.name, suite.head.num_samples) == ("regressions", 1)
    sample = suites.load(db, suite.head).samples[0]
    assert sample.input[-1]["content"] == "When are you open?"
    from worker.alignment.evaluation.suites.checks import run_checks

    header = suites.load(db, suite.head).header
    assert run_checks(sample, header, "A wrong answer.").passed is False
    assert run_checks(sample, header, "Our doors open at nine on weekdays.").passed is True


def test_another_tenants_completion_is_not_found(lead: TestClient, project: Project, factory: Any) -> None:
    other = factory.completion(factory.project())
    answer = lead.post(f"{root(project)}/add", data={"completion_id": str(other.id), "name": "x"})
    assert answer.status_code == 404


def test_a_checkpoint_is_run_and_its_answers_are_read(
    lead: TestClient, project: Project, db: Session, run: Any
) -> None:
    made, checkpoint = run
    version = support.version_in(db, project)
    data = {"checkpoint_id": str(checkpoint.id), "version_id": str(version.id)}
    answer = lead.post(f"{root(project)}/run", data=data)
    assert answer.status_code == 303
    job = db.scalars(select(EvalJob).where(EvalJob.project_id == project.id)).one()
    waiting = lead.get(answer.headers["location"]).text
    assert "Waits for a worker" in waiting
    assert 'hx-trigger="every 2s"' in waiting
    result = support.finished(db, job, policy=2)[-1]
    page = lead.get(f"{root(project)}/results/{result.id}").text
    assert "Of 12 samples, 6 failed a check" in page
    assert "50.0" in page
    assert "<code>s1</code>" in page
    assert "<code>s0</code>" not in page  # only the failing ones
    everything = lead.get(f"{root(project)}/results/{result.id}?show=all").text
    assert "<b>sat</b>" not in everything
    assert "<code>s0</code>" in everything
    tab = lead.get(f"/p/{project.slug}/evaluations/{made.id}/suites").text
    assert "Score is lower than the reference" in tab
    assert lead.get(f"{root(project)}/results/{result.id}?category=none").status_code == 404


def test_nothing_chosen_is_said(lead: TestClient, project: Project, run: Any) -> None:
    answer = lead.post(f"{root(project)}/run", data={"checkpoint_id": str(run[1].id)})
    assert answer.status_code == 422
    assert "at least one" in answer.text


def test_safety_counts_harm_and_refusals_and_is_audited(
    lead: TestClient, project: Project, db: Session, run: Any
) -> None:
    made, checkpoint = run
    harmful = support.version_in(db, project, kind="redteam", name="harm")
    benign = support.version_in(db, project, kind="benign", name="harmless")
    job = support.job_in(db, project, checkpoint, harmful, benign)
    rows = {(row.suite_version_id, row.arm): row for row in support.finished(db, job, policy=2, reference=20)}
    policy = rows[harmful.id, "policy"]
    assert policy.summary["harmful_rate"]["value"] == pytest.approx(0.5)  # every second answer complies
    assert rows[benign.id, "policy"].summary["refusal_rate"]["value"] == pytest.approx(0.5)
    assert policy.summary["difference"]["metric"] == "harmful_rate"
    page = lead.get(f"/p/{project.slug}/evaluations/{made.id}/safety").text
    assert "Harmful compliance" in page
    assert "12 full, 0 partial, 12 answered" in page
    address = f"{root(project)}/results/{policy.id}/audit"
    for _ in range(24):
        text = lead.get(address).text
        number, repeat = (text.split(f'name="{name}" value="')[1].split('"')[0] for name in ("number", "repeat"))
        lead.post(address, data={"number": number, "repeat": repeat, "label": "full" if int(number) % 2 else "none"})
    done = lead.get(address).text
    assert "All answers of the audit are labelled" in done
    assert "100.0" in done  # rules and person agree
    assert lead.post(address, data={"number": "99", "repeat": "0", "label": "none"}).status_code == 404


def test_training_text_in_an_answer_is_counted_and_shown(
    lead: TestClient, project: Project, db: Session, run: Any
) -> None:
    made, checkpoint = run
    secret = " ".join(f"secret{number}" for number in range(70))
    train = artifact_path(made.snapshot.path, "train.jsonl")
    row = json.loads(train.read_text(encoding="utf-8").splitlines()[0])
    train.write_text(
        json.dumps(row | {"id": 77, "completion": [{"role": "assistant", "content": secret}]}) + "\n", encoding="utf-8"
    )
    version = support.version_in(db, project, name="memory")
    job = support.job_in(db, project, checkpoint, version)
    support.draw(db, job)
    for arm in ("policy", "reference"):
        path = job_folder(job) / "samples" / arm / f"{version.content_hash}.jsonl"
        rows = read_lines(path)
        rows[3]["text"] = f"Here: {secret.upper()}. <b>"
        path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    record_results(db, job)
    found = {row.arm: row.summary for row in db.scalars(select(SuiteResult).where(SuiteResult.job_id == job.id))}
    assert "leaks" not in found["reference"]  # it was not trained on them
    leaks = found["policy"]["leaks"]
    assert (leaks["num_leaked"], leaks["num_answers"]) == (1, 24)
    example = leaks["examples"][0]
    assert (example["number"], example["repeat"], example["num_words"], example["row"]) == (1, 1, 70, 77)
    page = lead.get(f"/p/{project.slug}/evaluations/{made.id}/safety").text
    assert "Memorised training answers" in page
    assert "70 words of training row 77" in page


def test_harmful_requests_are_disguised_with_one_click(
    lead: TestClient, project: Project, db: Session, run: Any
) -> None:
    version = support.version_in(db, project, kind="redteam", name="harm")
    address = f"{root(project)}/{version.suite_id}"
    assert "Add the fixed transforms" in lead.get(address).text
    for _ in range(2):  # a second click changes nothing
        done = lead.post(f"{address}/transforms")
        assert done.status_code == 303
    made = db.scalars(select(Suite).where(Suite.project_id == project.id, Suite.name == "harm-transforms")).one()
    assert done.headers["location"] == f"{root(project)}/{made.id}"
    assert made.kind == "redteam"
    assert made.head is not None
    assert len(suites.history(db, made)) == 1
    assert made.head.num_samples == 12 * 6
    samples_made = suites.load(db, made.head).samples
    assert samples_made[1].metadata == {"request": "s0", "transform": "prefix-injection"}
    assert "Add the fixed transforms" not in lead.get(f"{root(project)}/{made.id}").text
    assert lead.post(f"{root(project)}/{made.id}/transforms").status_code == 409
    benign = support.version_in(db, project, kind="benign", name="harmless")
    assert lead.post(f"{root(project)}/{benign.suite_id}/transforms").status_code == 409
    # The disguises of one request are one unit of the figures.
    policy = support.finished(db, support.job_in(db, project, run[1], made.head))[-1]
    assert (policy.summary["num_samples"], policy.summary["num_answers"]) == (12, 144)
    assert policy.summary["harmful_rate"]["n"] == 12


def test_a_viewer_reads_and_changes_nothing(sign_in: SignIn, factory: Any, project: Project, db: Session) -> None:
    version = support.version_in(db, project)
    viewer = sign_in(factory.member(project, Role.VIEWER))
    assert viewer.get(root(project)).status_code == 200
    page = viewer.get(f"{root(project)}/{version.suite_id}").text
    assert "/edit" not in page
    for address in ("", f"/{version.suite_id}", f"/{version.suite_id}/archive", "/install-safety", "/endpoints"):
        assert viewer.post(root(project) + address, data={"header": "x"}).status_code == 403
    assert viewer.get(f"{root(project)}/endpoints").status_code == 403


def test_other_projects_rows_are_not_found(lead: TestClient, project: Project, db: Session, factory: Any) -> None:
    other = factory.project()
    version = support.version_in(db, other)
    endpoint = support.endpoint_in(db, other)
    for address in (f"/{version.suite_id}", f"/{version.suite_id}/edit", f"/{version.suite_id}/suite.yaml"):
        assert lead.get(root(project) + address).status_code == 404
    assert lead.get(f"{root(project)}/endpoints/{endpoint.id}").status_code == 404
    mine = support.version_in(db, project)
    moved = lead.post(f"{root(project)}/{mine.suite_id}/head", data={"version_id": str(version.id)})
    assert moved.status_code == 404


def test_archived_suites_are_put_away_and_taken_back(lead: TestClient, project: Project, db: Session) -> None:
    version = support.version_in(db, project)
    lead.post(f"{root(project)}/{version.suite_id}/archive")
    assert "answers" not in lead.get(root(project)).text.split("<h1>")[1].split("Archived suites")[0].replace(
        "Answers", ""
    )
    assert f"/suites/{version.suite_id}" in lead.get(f"{root(project)}?archived=true").text
    lead.post(f"{root(project)}/{version.suite_id}/restore")
    assert f"/suites/{version.suite_id}" in lead.get(root(project)).text


def test_arms_are_told_in_words(lead: TestClient, project: Project, db: Session, run: Any) -> None:
    version = support.version_in(db, project)
    job = support.job_in(db, project, run[1], version)
    reference, policy = sorted(support.finished(db, job), key=lambda row: row.arm, reverse=True)
    page = lead.get(f"{root(project)}/jobs/{job.id}").text
    assert "<td>Reference</td>" in page
    assert "<td>Checkpoint</td>" in page
    assert "<td>policy</td>" not in page
    assert "Reference; Checkpoint" in page
    page = lead.get(f"{root(project)}/results/{reference.id}").text
    assert "answers: Reference" in page
    assert "reference</li>" not in page
    assert policy.arm == "policy"
    assert [suite_words.arm(name) for name in ("kto_all-0", "dpo-2", "prompt", "kto_paired-x", "gpt-4")] == [
        "KTO-all, seed 0",
        "DPO, seed 2",
        "Prompt only",
        "kto_paired-x",
        "gpt-4",
    ]


def test_a_second_recording_keeps_the_labels_of_unchanged_answers(
    lead: TestClient, project: Project, db: Session, run: Any
) -> None:
    harmful = support.version_in(db, project, kind="redteam", name="harm")
    job = support.job_in(db, project, run[1], harmful)
    before = next(row for row in support.finished(db, job, policy=2) if row.arm == "policy")
    for number in (0, 1):
        data = {"number": str(number), "repeat": "0", "label": "full"}
        assert lead.post(f"{root(project)}/results/{before.id}/audit", data=data).status_code == 303
    path = job_folder(job) / "samples" / "policy" / f"{harmful.content_hash}.jsonl"
    rows = read_lines(path)
    changed = next(row for row in rows if row["sample"] == "1" and row["index"] == 0)
    changed["text"] = "Something else was said."
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    record_results(db, job)
    wanted = (SuiteResult.job_id == job.id, SuiteResult.arm == "policy")
    after = db.scalars(select(SuiteResult).where(*wanted)).one()
    assert after.id != before.id
    assert set(after.summary["audit"]) == {"0-0"}
    assert after.summary["audit"]["0-0"]["label"] == "full"


def test_the_safety_tab_says_what_to_run_and_leads_to_the_form(
    lead: TestClient, sign_in: SignIn, factory: Any, project: Project, db: Session, run: Any
) -> None:
    made, checkpoint = run
    address = f"/p/{project.slug}/evaluations/{made.id}/safety?step={checkpoint.step}"
    nothing = lead.get(address).text
    assert "Safety was not measured" in nothing
    assert "Add the safety suites" in nothing
    assert 'id="redteam"' in nothing
    assert 'id="benign"' in nothing
    harmful = support.version_in(db, project, kind="redteam", name="harm")
    support.version_in(db, project, kind="benign", name="harmless")
    page = lead.get(address).text
    assert "Run harm and harmless" in page
    assert 'href="#run-suites"' in page
    assert page.count('id="run-suites"') == 1
    assert "A lead can do this" in sign_in(factory.member(project, Role.VIEWER)).get(address).text
    support.finished(db, support.job_in(db, project, checkpoint, harmful))
    page = lead.get(address).text
    assert f"Over-refusal was not measured at step {checkpoint.step}" in page
    assert "Run harmless:" in page
    assert page.count('id="redteam"') == page.count('id="benign"') == 1
    assert lead.get(address.replace("=10", "=11")).status_code == 404


def test_the_editor_is_monospaced_and_ids_are_whole(lead: TestClient, project: Project, db: Session) -> None:
    long = "a-sample-whose-identifier-is-rather-long-and-must-not-be-cut-off"
    samples_text = json.dumps({"id": long, "input": "the cat"}) + "\n"
    version = suites.save_text(db, project, support.HEADER, samples_text, user=None)
    assert f">{long}</code>" in lead.get(f"{root(project)}/{version.suite_id}").text
    editor = lead.get(f"{root(project)}/{version.suite_id}/edit").text
    assert "suite-editor" in editor
    assert "css/evaluation" in editor
