"""The privacy page and the API of erasures, through the application."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.core.clock import utcnow
from app.feedback.service import ingest
from app.models import Completion, Erasure, Role
from app.privacy import erasing, retention, stored
from tests.privacy.support import MARK, furnish, item


def test_owner_saves_and_it_holds_for_what_comes_in(db: Any, factory: Any, sign_in: Any) -> None:
    project = factory.project()
    owner = sign_in(factory.member(project, Role.OWNER))
    page = f"/p/{project.slug}/settings/privacy"
    assert owner.get(page).status_code == 200
    form = {"mode": "redact", "kinds": ["email", "phone"], "regions": "de, us", "retention_days": "90"}
    assert owner.post(page, data=form).status_code == 303
    db.refresh(project)
    assert project.settings["privacy"] == {
        "mode": "redact",
        "kinds": ["email", "phone"],
        "regions": ["DE", "US"],
        "retention_days": 90,
    }
    ingest(db, project, [item(1, completion="Write to a@b.example.")], "shop")
    completion = db.scalars(select(Completion)).one()
    assert completion.text == "Write to [email]."
    assert completion.pii == {"email": 1}
    assert "E-mail addresses" in owner.get(page).text


@pytest.mark.parametrize(
    ("field", "value"),
    [("mode", "x"), ("regions", "XX"), ("retention_days", "0"), ("retention_days", "9" * 30), ("kinds", "")],
)
def test_bad_settings_come_back_as_typed(db: Any, factory: Any, sign_in: Any, field: str, value: str) -> None:
    project = factory.project()
    owner = sign_in(factory.member(project, Role.OWNER))
    form = {"mode": "flag", "kinds": ["email"], "regions": "US", "retention_days": ""} | {field: value}
    answer = owner.post(f"/p/{project.slug}/settings/privacy", data=form)
    assert answer.status_code == 422
    assert "Nothing" in answer.text or "does not fit" in answer.text
    db.refresh(project)
    assert "privacy" not in project.settings


def test_leads_see_and_may_not_change(factory: Any, sign_in: Any) -> None:
    project = factory.project()
    lead = sign_in(factory.member(project, Role.LEAD))
    page = f"/p/{project.slug}/settings/privacy"
    assert lead.get(page).status_code == 200
    assert lead.post(page, data={"mode": "off"}).status_code == 403
    assert lead.post(f"{page}/erase", data={"kind": "rater", "who": "x", "sure": "1"}).status_code == 403
    tried = lead.post(f"{page}/try", data={"text": "<b>a@b.example</b>", "kinds": ["email"]})
    assert "&lt;b&gt;[email]&lt;/b&gt;" in tried.text


def test_preview_then_erase(db: Any, factory: Any, sign_in: Any) -> None:
    project, _, run = furnish(db, factory)
    owner = sign_in(factory.member(project, Role.OWNER))
    page = f"/p/{project.slug}/settings/privacy"
    form = {"kind": "subject", "who": f"{MARK}-subject"}
    shown = owner.post(f"{page}/preview", data=form)
    assert shown.status_code == 200
    assert run.name in shown.text
    assert owner.post(f"{page}/erase", data=form).status_code == 422  # not confirmed
    assert db.scalar(select(Erasure.id)) is None
    answer = owner.post(f"{page}/erase", data=form | {"sure": "1"})
    assert answer.status_code == 303
    erasure = db.scalars(select(Erasure)).one()
    assert MARK not in str(erasure.target)  # encrypted
    assert erasing.work(erasure.id) == "done"
    db.expire_all()
    detail = owner.get(answer.headers["location"])
    assert detail.status_code == 200
    assert run.name in detail.text
    assert "v1" in detail.text
    assert MARK not in detail.text
    assert owner.get(f"{page}/erasures/{2**70}").status_code == 404


def test_an_app_passes_a_request_on(db: Any, factory: Any, client: Any) -> None:
    project, _, _ = furnish(db, factory)
    plain = {"authorization": f"Bearer {factory.api_key(project, ('feedback:write',))}"}
    key = {"authorization": f"Bearer {factory.api_key(project, ('privacy:erase',))}"}
    body = {"subject": f"{MARK}-subject"}
    assert client.post("/api/v1/erasures", json=body, headers=plain).status_code == 403
    assert client.post("/api/v1/erasures", json={}, headers=key).status_code == 422
    assert client.post("/api/v1/erasures", json=body | {"rater": "x"}, headers=key).status_code == 422
    first = client.post("/api/v1/erasures", json=body, headers=key)
    assert first.status_code == 202
    number = first.json()["id"]
    assert client.post("/api/v1/erasures", json=body, headers=key).json()["id"] == number
    assert erasing.work(number) == "done"
    db.expire_all()
    told = client.get(f"/api/v1/erasures/{number}", headers=key).json()
    assert (told["status"], told["counts"]["completions"]) == ("done", 2)
    other = {"authorization": f"Bearer {factory.api_key(factory.project(), ('privacy:erase',))}"}
    assert client.get(f"/api/v1/erasures/{number}", headers=other).status_code == 404


def test_retention_takes_the_old_and_leaves_gold(db: Any, factory: Any) -> None:
    from app.models import GoldItem

    project = factory.project()
    old, gold, new = (factory.completion(project, f"Answer {number}.") for number in range(3))
    old.created_at = gold.created_at = utcnow() - timedelta(days=40)
    factory.add(GoldItem(project_id=project.id, completion_id=gold.id, value=True))
    db.flush()
    assert retention.ask(db) == 0  # nothing goes by default
    project.settings = {"privacy": {"retention_days": 30}}
    db.flush()
    assert retention.ask(db) == 1
    assert retention.ask(db) == 0  # one at a time
    erasure = db.scalars(select(Erasure)).one()
    assert erasing.work(erasure.id) == "done"
    assert set(db.scalars(select(Completion.id))) == {gold.id, new.id}
    retention.ask_again(db, erasure.id)
    assert len(db.scalars(select(Erasure)).all()) == 1


def test_scan_of_what_is_stored(db: Any, factory: Any) -> None:
    project = factory.project()
    factory.completion(project, "Write to a@b.example or c@d.example.")
    plain = factory.completion(project, "No.")
    assert stored.scan(project.id) == 2
    assert stored.scan(project.id) == 0
    db.refresh(plain)
    assert plain.pii == {}
    assert stored.findings(db, project) == ({"email": (1, 2)}, 2, 0)
