from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.core.storage import artifact_path
from app.models import Export, Role, Run
from app.registry.service import production
from tests.evaluations.support import checkpoint_of, estimate, evaluation_in, heldout, run_in


@pytest.fixture
def shop(factory: Any, sign_in: Any, tmp_path: Path) -> Any:
    """A project with one evaluated checkpoint, and its lead's browser."""
    project = factory.project()
    client = sign_in(factory.member(project, Role.LEAD))
    run = run_in(factory, project)
    checkpoint = checkpoint_of(factory, run)
    evaluation_in(factory, run, checkpoint, tmp_path)
    return project, client, checkpoint


def ready(db: Session, version_id: int, project_id: int, kind: str, files: dict[str, bytes]) -> Export:
    folder = artifact_path("exports", str(version_id), kind)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    export = db.scalar(select(Export).where(Export.version_id == version_id, Export.kind == kind))
    export = export or Export(project_id=project_id, version_id=version_id, kind=kind)
    export.status, export.path = "ready", f"exports/{version_id}/{kind}"
    export.size_bytes, export.finished_at = sum(map(len, files.values())), utcnow()
    db.add(export)
    db.flush()
    return export


def test_an_empty_page_says_how_to_begin(factory: Any, sign_in: Any) -> None:
    project = factory.project()
    page = sign_in(factory.member(project, Role.VIEWER)).get(f"/p/{project.slug}/versions")
    assert page.status_code == 200
    assert "No versions yet" in page.text


def test_make_promote_and_roll_back_in_the_browser(db: Session, shop: Any) -> None:
    project, client, checkpoint = shop
    root = f"/p/{project.slug}/versions"
    made = client.post(root, data={"checkpoint_id": checkpoint.id})
    assert made.status_code == 303
    assert made.headers["location"] == f"{root}/1"
    assert client.post(root, data={"checkpoint_id": checkpoint.id}).headers["location"] == f"{root}/1"
    page = client.get(root).text
    assert "4 of 6 gates lack evidence" in page
    assert "tiny-base" in page
    assert "Nothing is in production" in page
    moved = client.post(f"{root}/1/promote", data={})
    assert moved.status_code == 303
    holder = production(db, project.id)
    assert holder is not None
    assert holder.version.number == 1
    assert "v1 is in production, promoted" in client.get(root).text


def test_the_chosen_step_becomes_a_version_once(factory: Any, shop: Any, tmp_path: Path) -> None:
    project, client, first = shop
    run = factory.db.get_one(Run, first.run_id)
    second = checkpoint_of(factory, run, 20)
    held = heldout(auc_within_prompt=estimate(0.6, 0.55, 0.65))
    evaluation_in(factory, run, second, tmp_path, heldout=held)
    url = f"/p/{project.slug}/evaluations/{run.id}"
    assert "Make a version of step 10" in client.get(f"{url}/safety").text, "the best one"
    for tab in ("", "/diversity", "/safety", "/suites", "/comparison", "/completions"):
        page = client.get(f"{url}{tab}?step=20").text
        assert "Make a version of step 20" in page, tab
        assert f'href="{url}/suites?step=20"' in page, "the choice goes along to the other tabs"
    root = f"/p/{project.slug}/versions"
    client.post(root, data={"checkpoint_id": second.id})
    assert "v1 is made of step 20" in client.get(f"{root}/1").text
    page = client.get(f"{url}/safety?step=20").text
    assert "Make a version" not in page
    assert f'href="{root}/1"' in page
    assert "Make a version of step 10" in client.get(f"{url}/safety").text
    client.post(root, data={"checkpoint_id": second.id})
    again = client.get(f"{root}/1").text
    assert "v1 of step 20 exists already" in again
    assert f'href="{url}/safety?step=20#benign"' in again, "the gate leads to the checkpoint and the suite it lacks"
    assert f'href="{url}/diversity?step=20"' in again


def test_a_version_that_was_not_evaluated_leads_to_pages_that_exist(factory: Any, shop: Any) -> None:
    project, client, first = shop
    bare = checkpoint_of(factory, factory.db.get_one(Run, first.run_id), 30)
    client.post(f"/p/{project.slug}/versions", data={"checkpoint_id": bare.id})
    page = client.get(f"/p/{project.slug}/versions/1").text
    links = [part.split('"')[0] for part in page.split('class="link xs" href="')[1:]]
    assert len(links) == 6
    assert {client.get(link).status_code for link in links} == {200}


def test_a_failing_gate_brings_the_form_back(db: Session, factory: Any, shop: Any, tmp_path: Path) -> None:
    project, client, checkpoint = shop
    run = db.get_one(Run, checkpoint.run_id)
    bad = checkpoint_of(factory, run, 20)
    held = heldout(auc_within_prompt=estimate(0.4, 0.3, 0.45))
    evaluation_in(factory, run, bad, tmp_path, heldout=held)
    root = f"/p/{project.slug}/versions"
    client.post(root, data={"checkpoint_id": bad.id})
    refused = client.post(f"{root}/1/promote", data={"reason": ""})
    assert refused.status_code == 422
    assert "Say why v1 may serve although this blocks: Held-out reward." in refused.text
    assert "1 of 6 gates fails" in refused.text
    assert production(db, project.id) is None
    assert client.post(f"{root}/1/promote", data={"reason": "old split"}).status_code == 303


def test_exports_are_queued_watched_and_streamed(db: Session, shop: Any) -> None:
    project, client, checkpoint = shop
    root = f"/p/{project.slug}/versions"
    client.post(root, data={"checkpoint_id": checkpoint.id})
    assert client.get(f"{root}/1/exports/adapter/download").status_code == 404
    part = client.post(f"{root}/1/exports", data={"kind": "adapter"}, headers={"HX-Request": "true"})
    assert part.status_code == 200
    assert 'hx-trigger="every 2s"' in part.text
    client.post(f"{root}/1/exports", data={"kind": "adapter"})
    export = db.scalars(select(Export)).one()
    assert export.status == "queued"
    assert client.post(f"{root}/1/exports", data={"kind": "onnx"}).status_code == 404
    large = bytes(range(256)) * 6_000
    ready(
        db, export.version_id, project.id, "adapter", {"adapter_config.json": b"{}", "adapter_model.safetensors": large}
    )
    part = client.get(f"{root}/1/exports", headers={"HX-Request": "true"}).text
    assert "every 2s" not in part
    assert "Download" in part
    answer = client.get(f"{root}/1/exports/adapter/download")
    assert int(answer.headers["content-length"]) == len(answer.content)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        names = archive.getnames()
        assert names == [
            f"{project.slug}-v1-adapter/{name}" for name in ("adapter_config.json", "adapter_model.safetensors")
        ]
        member = archive.extractfile(names[1])
        assert member is not None
        assert member.read() == large


def test_a_refused_merge_says_by_how_much_and_can_be_tried_again(db: Session, shop: Any) -> None:
    project, client, checkpoint = shop
    root = f"/p/{project.slug}/versions"
    client.post(root, data={"checkpoint_id": checkpoint.id})
    client.post(f"{root}/1/exports", data={"kind": "merged"})
    export = db.scalars(select(Export)).one()
    export.status, export.message = "refused", "The merged weights do not behave like the adapter."
    export.report = {"ratio": 0.31, "correlation": 0.97, "dtype": "bfloat16"}
    db.flush()
    page = client.get(f"{root}/1").text
    assert "The merged weights do not behave like the adapter." in page
    client.post(f"{root}/1/exports", data={"kind": "merged"})
    db.refresh(export)
    assert (export.status, export.message, export.report) == ("queued", "", {})


def test_the_model_card_is_written_from_data(db: Session, shop: Any) -> None:
    project, client, checkpoint = shop
    root = f"/p/{project.slug}/versions"
    project.name = "Help `desk` <i>|</i>"
    db.flush()
    client.post(root, data={"checkpoint_id": checkpoint.id})
    page = client.get(f"{root}/1/card").text
    assert "AUC within the prompt" in page
    assert "<i>" not in page
    text = client.get(f"{root}/1/card.md")
    assert text.headers["content-type"].startswith("text/markdown")
    assert text.text.startswith("---\nbase_model: tiny-base\nlibrary_name: peft\n")
    assert "| Held-out reward | pass | 0.680 |" in text.text
    matter = yaml.safe_load(text.text.split("---")[1])
    (result,) = matter["model-index"][0]["results"]
    assert {"type": "auc_within_prompt", "name": "AUC within the prompt", "value": 0.68} in result["metrics"]
    assert "not a claim of compliance" in text.text
    records = client.get(f"{root}/1/card.json").json()
    assert records["evaluation"]["heldout"]["auc_within_prompt"]["n"] == 64
    assert records["gate"]["gates"][0] == {
        "key": "reward",
        "name": "Held-out reward",
        "state": "pass",
        "figure": "0.680",
        "interval": "0.620\u20130.740",
        "evidence": "64 prompts with both labels; length alone, pooled: 0.580",
        "rule": "AUC within the prompt above 0.5",
    }
    assert "No DPO baseline was compared." in records["caveats"]
    assert {row["function"] for row in records["nist_ai_rmf"]} == {"GOVERN", "MAP", "MEASURE", "MANAGE"}


def test_the_api_names_what_to_serve(db: Session, factory: Any, shop: Any) -> None:
    project, client, checkpoint = shop
    key = {"Authorization": f"Bearer {factory.api_key(project)}"}
    url = "/api/v1/versions/production"
    assert client.get(url).status_code == 401
    assert client.get(url, headers=key).status_code == 404
    root = f"/p/{project.slug}/versions"
    client.post(root, data={"checkpoint_id": checkpoint.id})
    client.post(f"{root}/1/promote", data={})
    facts = client.get(url, headers=key).json()
    assert (facts["version"], facts["base_model"], facts["checkpoint_step"]) == (1, "tiny-base", 10)
    assert facts["adapter"] == {"ready": False, "size_bytes": None, "url": None}
    holder = production(db, project.id)
    assert holder is not None
    ready(db, holder.version_id, project.id, "adapter", {"adapter_config.json": b"{}"})
    facts = client.get(url, headers=key).json()
    assert facts["adapter"] == {"ready": True, "size_bytes": 2, "url": f"{url}/adapter"}
    with tarfile.open(fileobj=io.BytesIO(client.get(f"{url}/adapter", headers=key).content)) as archive:
        assert archive.getnames() == [f"{project.slug}-v1-adapter/adapter_config.json"]
    other = {"Authorization": f"Bearer {factory.api_key(factory.project())}"}
    assert client.get(url, headers=other).status_code == 404
    writer = {"Authorization": f"Bearer {factory.api_key(project, scopes=('feedback:write',))}"}
    assert client.get(url, headers=writer).status_code == 403


def test_roles_and_tenants(factory: Any, sign_in: Any, shop: Any) -> None:
    project, client, checkpoint = shop
    root = f"/p/{project.slug}/versions"
    client.post(root, data={"checkpoint_id": checkpoint.id})
    viewer = sign_in(factory.member(project, Role.VIEWER))
    assert viewer.get(root).status_code == 200
    for path, data in (
        (root, {"checkpoint_id": checkpoint.id}),
        (f"{root}/1/promote", {}),
        (f"{root}/1/exports", {"kind": "adapter"}),
    ):
        assert viewer.post(path, data=data).status_code == 403
    elsewhere = factory.project()
    stranger = sign_in(factory.member(elsewhere, Role.OWNER))
    theirs = f"/p/{elsewhere.slug}/versions"
    assert stranger.get(root).status_code == 404
    assert stranger.post(theirs, data={"checkpoint_id": checkpoint.id}).status_code == 404
    for part in ("", "/card", "/card.md", "/card.json", "/exports", "/exports/adapter/download"):
        assert stranger.get(f"{theirs}/1{part}").status_code == 404
    assert stranger.post(f"{theirs}/1/promote", data={}).status_code == 404


def test_a_key_for_feedback_reads_no_version(factory: Any, client: Any) -> None:
    project = factory.project()
    for scopes, status in ((("feedback:read", "feedback:write"), 403), (("version:read",), 404)):
        key = {"Authorization": f"Bearer {factory.api_key(project, scopes)}"}
        assert client.get("/api/v1/versions/production", headers=key).status_code == status
        assert client.get("/api/v1/versions/production/adapter", headers=key).status_code == status
