from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.service import freeze
from app.models import Role, Snapshot
from tests.datasets.helpers import insert_items, item, simple_items

SignIn = Callable[..., TestClient]


def test_readiness_freeze_and_download(db: Session, factory: Any, sign_in: SignIn) -> None:
    project = factory.project()
    insert_items(db, project, simple_items(400))
    browser = sign_in(factory.member(project, Role.LEAD))
    page = browser.get(f"/p/{project.slug}/readiness")
    assert page.status_code == 200
    assert "Fit for KTO" in page.text
    assert "Balance over 4 categories" in page.text
    assert f'action="/p/{project.slug}/snapshots"' in page.text
    answer = browser.post(f"/p/{project.slug}/snapshots")
    assert answer.status_code == 303
    snapshot = db.scalars(select(Snapshot).where(Snapshot.project_id == project.id)).one()
    assert answer.headers["location"] == f"/p/{project.slug}/snapshots/{snapshot.content_hash[:16]}"
    facts = browser.get(answer.headers["location"])
    assert facts.status_code == 200
    assert "Snapshot frozen." in facts.text
    assert f"/runs/new?snapshot={snapshot.content_hash}" in facts.text
    again = browser.post(f"/p/{project.slug}/snapshots")
    assert again.headers["location"] == answer.headers["location"]
    assert "Nothing changed since" in browser.get(answer.headers["location"]).text
    listed = browser.get(f"/p/{project.slug}/snapshots")
    assert snapshot.content_hash[:8] in listed.text
    lines = browser.get(f"{answer.headers['location']}/files/train.jsonl")
    assert lines.status_code == 200
    assert "attachment" in lines.headers["content-disposition"]
    counts = snapshot.counts["train"]
    assert len([json.loads(line) for line in lines.text.splitlines()]) == counts["desirable"] + counts["undesirable"]
    assert browser.get(f"{answer.headers['location']}/files/..%2fmanifest.json").status_code == 404
    assert browser.get(f"{answer.headers['location']}/files/secret").status_code == 404


def test_unfit_data_is_refused_in_words(db: Session, factory: Any, sign_in: SignIn) -> None:
    project = factory.project()
    insert_items(db, project, [item(f"Q{i}", "Yes.", True) for i in range(30)])
    browser = sign_in(factory.member(project, Role.LEAD))
    page = browser.get(f"/p/{project.slug}/readiness").text
    assert "Not fit for KTO yet." in page
    assert 'aria-disabled="true"' in page
    answer = browser.post(f"/p/{project.slug}/snapshots")
    assert answer.status_code == 422
    assert "All 30 labels are desirable: KTO needs both classes." in answer.text
    assert db.scalar(select(Snapshot).where(Snapshot.project_id == project.id)) is None


def test_empty_pages(factory: Any, sign_in: SignIn) -> None:
    project = factory.project()
    browser = sign_in(factory.member(project, Role.VIEWER))
    assert "There are no labels" in browser.get(f"/p/{project.slug}/readiness").text
    assert "No snapshots yet" in browser.get(f"/p/{project.slug}/snapshots").text


def test_who_may_freeze(db: Session, factory: Any, sign_in: SignIn) -> None:
    project = factory.project()
    insert_items(db, project, simple_items(400))
    viewer = sign_in(factory.member(project, Role.VIEWER))
    assert "owners and leads can freeze" in viewer.get(f"/p/{project.slug}/readiness").text
    assert viewer.post(f"/p/{project.slug}/snapshots").status_code == 403
    annotator = sign_in(factory.member(project, Role.ANNOTATOR))
    assert annotator.get(f"/p/{project.slug}/readiness").status_code == 403
    assert db.scalar(select(Snapshot).where(Snapshot.project_id == project.id)) is None


def test_a_snapshot_of_another_project_is_not_found(db: Session, factory: Any, sign_in: SignIn) -> None:
    project, other = factory.project(), factory.project()
    insert_items(db, project, simple_items(60))
    snapshot = freeze(db, project)
    browser = sign_in(factory.member(other, Role.LEAD))
    for path in ("", "/files/train.jsonl"):
        assert browser.get(f"/p/{other.slug}/snapshots/{snapshot.content_hash}{path}").status_code == 404
        assert browser.get(f"/p/{project.slug}/snapshots/{snapshot.content_hash}{path}").status_code == 404


def test_csrf_is_needed_to_freeze(db: Session, factory: Any, sign_in: SignIn) -> None:
    project = factory.project()
    insert_items(db, project, simple_items(60))
    browser = sign_in(factory.member(project, Role.LEAD))
    for token in ("", "0" * 64):
        browser.headers["X-CSRF-Token"] = token
        assert browser.post(f"/p/{project.slug}/snapshots").status_code == 403
    assert db.scalar(select(Snapshot).where(Snapshot.project_id == project.id)) is None


def test_older_snapshots_by_page(db: Session, factory: Any, sign_in: SignIn) -> None:
    project = factory.project()
    insert_items(db, project, simple_items(60))
    first = freeze(db, project)
    for number in range(31):
        db.add(
            Snapshot(
                project_id=project.id,
                content_hash=f"{number:064x}",
                rule={},
                path="x",
                counts=first.counts,
                size_bytes=1,
            )
        )
    db.flush()
    browser = sign_in(factory.member(project, Role.LEAD))
    page = browser.get(f"/p/{project.slug}/snapshots").text
    assert first.content_hash[:8] not in page
    cursor = page.partition("cursor=")[2].partition('"')[0]
    assert first.content_hash[:8] in browser.get(f"/p/{project.slug}/snapshots?cursor={cursor}").text
    assert browser.get(f"/p/{project.slug}/snapshots?cursor=x").status_code == 422
