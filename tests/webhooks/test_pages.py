from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import Role, Webhook, WebhookDelivery
from app.webhooks import events
from app.webhooks.delivery import deliver_due
from tests.webhooks.receiver import Receiver

SignIn = Callable[..., TestClient]


def test_a_lead_adds_tries_rotates_and_removes(db: Session, factory: Any, sign_in: SignIn, receiver: Receiver) -> None:
    project = factory.project()
    client = sign_in(factory.member(project, Role.LEAD))
    root = f"/p/{project.slug}/sources/webhooks"
    assert "No webhook" in client.get(root).text
    made = client.post(root, data={"url": receiver.url, "events": ["run.finished"], "description": "CI"})
    secrets = re.findall(r"whsec_[A-Za-z0-9+/=]{44}", made.text)
    assert made.status_code == 200
    assert len(set(secrets)) == 1
    assert secrets[0] not in client.get(root).text
    hook = db.scalars(select(Webhook)).one()
    assert secrets[0].encode() not in hook.secret
    one = f"{root}/{hook.id}"
    assert "The test was taken" in client.post(f"{one}/test").text
    receiver.reply = lambda _: (500, {}, b"<script>x</script>")
    failing = client.post(f"{one}/test").text
    assert "The test was not taken" in failing
    assert "<script>x" not in failing
    events.emit(db, project.id, "run.finished", [{"id": 1}])
    deliver_due()
    db.expire_all()
    assert "next try" in client.get(one).text
    receiver.reply = lambda _: (200, {}, b"")
    row = db.scalars(select(WebhookDelivery).where(WebhookDelivery.status == "pending")).one()
    assert client.post(f"{one}/deliveries/{row.id}/again").status_code == 303
    deliver_due()
    db.refresh(row)
    assert row.status == "delivered"
    assert secrets[0] not in client.post(f"{one}/rotate").text
    assert client.post(f"{one}/disable").status_code == 303
    db.expire_all()
    assert "Disabled by hand" in client.get(one).text
    assert client.post(f"{one}/deliveries/{row.id}/again").status_code == 409
    assert client.post(f"{one}/enable").status_code == 303
    changed = client.post(one, data={"url": receiver.url, "events": ["feedback.created", "model.promoted"]})
    assert changed.status_code == 303
    assert client.post(f"{one}/remove").status_code == 303
    assert db.scalar(select(Webhook.id)) is None


def test_bad_input_comes_back_with_what_was_typed(db: Session, factory: Any, sign_in: SignIn) -> None:
    project = factory.project()
    client = sign_in(factory.member(project, Role.LEAD))
    answer = client.post(
        f"/p/{project.slug}/sources/webhooks", data={"url": "http://10.0.0.1/<x>", "events": ["nonsense"]}
    )
    assert answer.status_code == 422
    assert "http://10.0.0.1/&lt;x&gt;" in answer.text
    assert "choose at least one kind of event" in answer.text
    assert db.scalar(select(Webhook.id)) is None


def test_watchers_look_and_cannot_touch(db: Session, factory: Any, sign_in: SignIn, receiver: Receiver) -> None:
    project, other = factory.project(), factory.project()
    lead = factory.member(project, Role.LEAD)
    root = f"/p/{project.slug}/sources/webhooks"
    sign_in(lead).post(root, data={"url": receiver.url, "events": ["run.finished"]})
    hook = db.scalars(select(Webhook)).one()
    viewer = sign_in(factory.member(project, Role.VIEWER))
    page = viewer.get(f"{root}/{hook.id}")
    assert page.status_code == 200
    assert "Rotate" not in page.text
    assert viewer.post(f"{root}/{hook.id}/remove").status_code == 403
    stranger = sign_in(factory.member(other, Role.LEAD))
    assert stranger.get(f"/p/{other.slug}/sources/webhooks/{hook.id}").status_code == 404
    assert stranger.get(f"{root}/{hook.id}").status_code == 404
