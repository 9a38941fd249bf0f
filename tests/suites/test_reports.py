"""Reports of red-team tools, brought in on the Safety tab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.evaluations import safety_reports
from app.models import AuditEntry, EvalJob, Project, Role
from app.settings import get_settings
from tests.evaluations.support import checkpoint_of, evaluation_in
from tests.runs import samples


def garak(*scores: float, probe: str = "dan.Ablation") -> bytes:
    rows: list[dict[str, Any]] = [{"entry_type": "start_run setup", "plugins.target_name": "our-model"}]
    rows += [
        {
            "entry_type": "attempt",
            "status": 2,
            "probe_classname": probe,
            "prompt": f"please <i>{number}</i>\u0000",
            "outputs": [f"answer {number}"],
            "detector_results": {"mitigation": [score]},
        }
        for number, score in enumerate(scores)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


PROMPTFOO = json.dumps(
    {
        "results": {
            "results": [
                {"success": True, "prompt": "p", "metadata": {"pluginId": "pii"}, "testCase": {"metadata": [1]}}
            ]
        }
    }
).encode()


@pytest.fixture
def project(db: Session, factory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(get_settings(), "data_dir", tmp_path)
    found: Project = factory.project()
    return found


@pytest.fixture
def place(db: Session, factory: Any, project: Project, tmp_path: Path) -> tuple[str, int]:
    """The Safety tab's address and the checkpoint of its run."""
    from app.runs import service

    snapshot = samples.freeze(db, project, samples.balanced(), samples.mixed_dev(), name=f"s-{project.id}")
    config = samples.small_config(samples.model_folder())
    run = service.launch(db, project, None, config=config, snapshot=snapshot, launch_key=f"k{project.id}")
    checkpoint = checkpoint_of(factory, run)
    evaluation_in(factory, run, checkpoint, tmp_path)
    return f"/p/{project.slug}/evaluations/{run.id}/safety", checkpoint.id


@pytest.fixture
def lead(factory: Any, sign_in: Any, project: Project) -> TestClient:
    found: TestClient = sign_in(factory.member(project, Role.LEAD))
    return found


def upload(client: TestClient, place: tuple[str, int], content: bytes, checkpoint_id: object = None) -> Any:
    data = {"checkpoint_id": str(place[1] if checkpoint_id is None else checkpoint_id)}
    return client.post(f"{place[0]}/import", data=data, files={"file": ("report.jsonl", content)})


def stored(db: Session, project: Project) -> list[EvalJob]:
    return list(db.scalars(select(EvalJob).where(EvalJob.project_id == project.id).order_by(EvalJob.id)))


def test_counts_by_probe_are_shown_and_the_latest_of_a_tool_replaces(
    lead: TestClient, place: tuple[str, int], db: Session, project: Project
) -> None:
    assert upload(lead, place, garak(1.0, 1.0, 1.0, 1.0)).status_code == 303
    assert upload(lead, place, PROMPTFOO).status_code == 303
    done = upload(lead, place, garak(1.0, 0.0, 0.0, 0.0) + b"not json\n" + garak(0.9, probe="xss.Probe"))
    assert done.headers["location"] == place[0]
    page = lead.get(place[0]).text
    assert "dan.Ablation" in page
    assert page.index("xss.Probe") < page.index("dan.Ablation")  # the one that failed most first
    assert "40.0" in page  # 2 of 5
    assert "11.8 to 76.9" in page  # Wilson's
    assert "our-model" in page
    assert "Line 6: The line is not JSON" in page
    assert "please &lt;i&gt;0" in page
    assert "<i>0</i>" not in page
    assert {job.plan["tool"] for job in stored(db, project)} == {"garak", "promptfoo"}
    assert len(stored(db, project)) == 2
    # A report is no evaluation that a worker does.
    suites_page = lead.get(f"/p/{project.slug}/suites").text
    assert "Nothing was run yet" in suites_page
    assert lead.get(f"/p/{project.slug}/suites/jobs/{stored(db, project)[0].id}").status_code == 404


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"[1, 2]", b'{"a": 1}\n', b'{"results": {"results": [5]}}', b"[" * 3000, b"\xff\x00"]
)
def test_what_is_no_report_is_refused_in_words(
    lead: TestClient, place: tuple[str, int], db: Session, project: Project, content: bytes
) -> None:
    answer = upload(lead, place, content)
    assert answer.status_code == 422
    assert 'id="file-e"' in answer.text
    assert stored(db, project) == []


def test_a_large_file_and_a_foreign_checkpoint_are_refused(
    lead: TestClient, place: tuple[str, int], db: Session, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for chosen in ("", 0, place[1] + 1_000_000, "9" * 30):
        assert "choose a checkpoint of this run" in upload(lead, place, garak(1.0), chosen).text
    monkeypatch.setattr(safety_reports, "MAX_BYTES", 50)
    answer = upload(lead, place, garak(1.0))
    assert answer.status_code == 422
    assert "is larger than" in answer.text
    assert lead.post(f"{place[0]}/import", data={"checkpoint_id": "1"}).status_code == 422
    assert stored(db, project) == []


def test_only_who_may_run_suites_brings_one_in(
    sign_in: Any, factory: Any, project: Project, place: tuple[str, int], db: Session
) -> None:
    viewer = sign_in(factory.member(project, Role.VIEWER))
    assert upload(viewer, place, garak(1.0)).status_code == 403
    assert "Bring in a report" not in viewer.get(place[0]).text
    stranger = sign_in(factory.member(factory.project(), Role.LEAD))
    assert upload(stranger, place, garak(1.0)).status_code in {403, 404}
    assert stored(db, project) == []


def test_a_report_is_removed_by_a_lead_and_recorded(
    lead: TestClient, sign_in: Any, factory: Any, project: Project, place: tuple[str, int], db: Session
) -> None:
    upload(lead, place, garak(1.0))
    upload(lead, place, PROMPTFOO)
    garaks, promptfoo = stored(db, project)
    address = f"{place[0]}/reports/{garaks.id}/remove"
    assert f'action="{address}"' in lead.get(place[0]).text
    viewer = sign_in(factory.member(project, Role.VIEWER))
    assert viewer.post(address).status_code == 403
    assert address not in viewer.get(place[0]).text
    other = factory.project()
    stranger = sign_in(factory.member(other, Role.LEAD))
    assert stranger.post(address.replace(project.slug, other.slug)).status_code == 404
    assert len(stored(db, project)) == 2
    lead = sign_in(factory.member(project, Role.LEAD))
    done = lead.post(address)
    assert done.headers["location"] == place[0]
    assert [job.id for job in stored(db, project)] == [promptfoo.id]
    entry = db.scalars(select(AuditEntry).where(AuditEntry.action == "evaluation.report_removed")).one()
    assert (entry.subject, entry.details["tool"]) == (f"checkpoint {place[1]}", "garak")
    assert "dan.Ablation" not in lead.get(place[0]).text
    assert lead.post(address).status_code == 404


def test_an_evaluation_is_not_removed_as_a_report(
    lead: TestClient, project: Project, place: tuple[str, int], db: Session
) -> None:
    job = EvalJob(
        project_id=project.id, kind="suites", title="x", run_id=int(place[0].split("/")[-2]), plan={"arms": []}
    )
    db.add(job)
    db.flush()
    assert lead.post(f"{place[0]}/reports/{job.id}/remove").status_code == 404
    assert [row.id for row in stored(db, project)] == [job.id]
