"""Events reach a real server, signed so that an independent package accepts them; what is not taken is tried again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.errors import InvalidError
from app.feedback.ratings import rate
from app.models import AuditEntry, OutboxEvent, Project, Webhook, WebhookDelivery
from app.webhooks import delivery, events, service
from app.webhooks.delivery import claim, deliver_due, settle
from app.webhooks.sending import Answer
from tests.factory import Factory
from tests.webhooks.receiver import Receiver


def _hook(db: Session, project: Project, url: str, *names: str) -> tuple[Webhook, str]:
    typed = {"url": url, "events": list(names or events.TYPES)}
    return service.create(db, project, typed, user=None)


def _row(db: Session) -> WebhookDelivery:
    db.expire_all()
    return db.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)).one()


def _make_due(db: Session) -> None:
    db.execute(update(WebhookDelivery).values(due_at=utcnow() - timedelta(seconds=1)))


def test_a_verdict_arrives_signed_and_without_texts(db: Session, factory: Any, receiver: Receiver) -> None:
    project = factory.project()
    _, secret = _hook(db, project, receiver.url)
    completion = factory.completion(project, text="The secret text.")
    completion.external_id = "msg-1"
    outcome, rating = rate(
        db, project.id, completion.id, source="shop", rater="ada@example.org", value=True, comment="fine"
    )
    assert outcome == "created"
    assert deliver_due() == 1
    headers, body = receiver.calls[0]
    told: Any = Verifier(secret).verify(body.decode(), headers)
    assert told["type"] == "feedback.created"
    data = told["data"]
    assert (data["id"], data["label"], data["source"], data["completion_id"]) == (rating, True, "shop", "msg-1")
    assert data["change"] == "created"
    assert b"secret text" not in body
    assert b"ada@" not in body
    assert b"fine" not in body
    row = _row(db)
    assert (row.status, row.attempts, row.answer_status) == ("delivered", 1, 204)
    assert deliver_due() == 0
    with pytest.raises(WebhookVerificationError):
        Verifier(secret).verify(body.decode() + " ", headers)


def test_no_webhook_no_event_and_none_of_another_project(db: Session, factory: Any, receiver: Receiver) -> None:
    mine, other = factory.project(), factory.project()
    _hook(db, other, receiver.url)
    _hook(db, mine, receiver.url, "run.finished")
    completion = factory.completion(mine)
    rate(db, mine.id, completion.id, source="shop", rater="r", value=True)
    assert db.scalar(select(func.count()).select_from(OutboxEvent)) == 0


def test_an_event_of_a_transaction_that_fails_is_none(db: Session, factory: Any, receiver: Receiver) -> None:
    project = factory.project()
    _hook(db, project, receiver.url)
    completion = factory.completion(project)
    savepoint = db.begin_nested()
    rate(db, project.id, completion.id, source="shop", rater="r", value=True)
    savepoint.rollback()
    assert deliver_due() == 0
    rate(db, project.id, completion.id, source="shop", rater="r", value=False)
    rate(db, project.id, completion.id, source="shop", rater="r", value=False)  # says nothing new
    assert deliver_due() == 1


def test_a_failed_call_is_tried_again_with_the_same_id(db: Session, factory: Any, receiver: Receiver) -> None:
    receiver.reply = lambda number: (500, {}, b"broken <b>here") if number == 0 else (200, {}, b"ok")
    project = factory.project()
    _hook(db, project, receiver.url)
    events.emit(db, project.id, "run.finished", [{"id": 1}])
    deliver_due()
    row = _row(db)
    assert (row.status, row.attempts, row.answer_status, row.answer) == ("pending", 1, 500, "broken <b>here")
    assert utcnow() < row.due_at < utcnow() + timedelta(seconds=10)
    _make_due(db)
    deliver_due()
    assert _row(db).status == "delivered"
    assert len({headers["webhook-id"] for headers, _ in receiver.calls}) == 1
    assert len({body for _, body in receiver.calls}) == 1


def test_a_receiver_that_is_down_is_called_once_per_pause(db: Session, factory: Any, receiver: Receiver) -> None:
    receiver.reply = lambda _: (503, {"retry-after": "1800"}, b"")
    project = factory.project()
    _hook(db, project, receiver.url)
    events.emit(db, project.id, "run.finished", [{"id": number} for number in range(10)])
    deliver_due()
    assert len(receiver.calls) == 1
    rows = db.scalars(select(WebhookDelivery)).all()
    assert sorted(row.attempts for row in rows) == [0] * 9 + [1]
    assert all(row.due_at > utcnow() + timedelta(minutes=25) for row in rows), "it asked to wait half an hour"


def test_one_event_that_is_refused_does_not_hold_up_the_others(db: Session, factory: Any, receiver: Receiver) -> None:
    receiver.reply = lambda number: (400, {}, b"no") if number == 0 else (200, {}, b"")
    project = factory.project()
    _hook(db, project, receiver.url)
    events.emit(db, project.id, "run.finished", [{"id": number} for number in range(40)])
    assert deliver_due() == 40
    statuses = [row.status for row in db.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id))]
    assert statuses == ["pending", *["delivered"] * 39]
    assert [json.loads(body)["data"]["id"] for _, body in receiver.calls] == list(range(40))


def test_the_delivery_of_a_lost_worker_is_taken_over_and_its_late_word_ignored(
    db: Session, factory: Any, receiver: Receiver
) -> None:
    project = factory.project()
    hook, _ = _hook(db, project, receiver.url)
    events.emit(db, project.id, "run.finished", [{"id": 1}])
    lost = claim(db, hook.id)[0]
    assert deliver_due() == 0, "somebody holds it"
    _make_due(db)
    assert deliver_due() == 1
    settle(db, lost, Answer(500, "too late"))
    assert _row(db).status == "delivered"


def test_kill_9_in_mid_call_loses_no_event(committed_db: Engine, receiver: Receiver) -> None:
    """The receiver gets the event again under the same id, by which it can tell."""
    with session_scope() as db:
        project = Factory(db).project()
        _hook(db, project, receiver.url)
        events.emit(db, project.id, "run.finished", [{"id": 1}])
    called, hang_up = threading.Event(), threading.Event()

    def hang(number: int) -> tuple[int, dict[str, str], bytes]:
        called.set()
        hang_up.wait(60)
        return 204, {}, b""

    receiver.reply = hang
    code = "from app.webhooks.delivery import deliver_due; deliver_due()"
    worker = subprocess.Popen([sys.executable, "-c", code], env=os.environ.copy())
    try:
        assert called.wait(60)
    finally:
        worker.kill()
        worker.wait()
        hang_up.set()
    receiver.reply = lambda _number: (204, {}, b"")
    assert deliver_due() == 0, "its lease is not over"
    with session_scope() as db:
        assert _row(db).status == "pending"
        _make_due(db)
    assert deliver_due() == 1
    with session_scope() as db:
        assert (_row(db).status, db.scalar(select(func.count()).select_from(OutboxEvent))) == ("delivered", 1)
    ids = [headers["webhook-id"] for headers, _ in receiver.calls]
    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_gone_disables_and_what_waits_is_held_until_enabled(db: Session, factory: Any, receiver: Receiver) -> None:
    receiver.reply = lambda number: (410, {}, b"") if number == 0 else (200, {}, b"")
    project = factory.project()
    hook, _ = _hook(db, project, receiver.url)
    events.emit(db, project.id, "run.finished", [{"id": 1}, {"id": 2}])
    deliver_due()
    db.refresh(hook)
    assert not hook.is_enabled
    assert "410" in (hook.disabled_reason or "")
    events.emit(db, project.id, "run.finished", [{"id": 3}])
    assert [row.status for row in db.scalars(select(WebhookDelivery).execution_options(populate_existing=True))] == [
        "held"
    ] * 2
    actions = db.scalars(select(AuditEntry.action).where(AuditEntry.project_id == project.id)).all()
    assert "webhook.disabled" in actions
    service.enable(db, hook, user=None)
    assert deliver_due() == 2


def test_after_the_last_try_it_is_given_up_and_a_dead_webhook_disabled(
    db: Session, factory: Any, receiver: Receiver
) -> None:
    receiver.reply = lambda _: (500, {}, b"")
    project = factory.project()
    hook, _ = _hook(db, project, receiver.url)
    events.emit(db, project.id, "run.finished", [{"id": 1}])
    for _ in range(len(delivery.PAUSES)):
        _make_due(db)
        deliver_due()
    assert _row(db).status == "pending"
    assert 2.5 * 86400 < sum(delivery.PAUSES) < 3.5 * 86400
    _make_due(db)
    deliver_due()
    assert _row(db).status == "failed"
    db.refresh(hook)
    assert not hook.is_enabled
    assert "three days" in (hook.disabled_reason or "")


def test_redirects_and_huge_answers(db: Session, factory: Any, receiver: Receiver) -> None:
    project = factory.project()
    hook, _ = _hook(db, project, receiver.url)
    receiver.reply = lambda number: (302, {"location": receiver.url}, b"") if number == 0 else (200, {}, b"x" * 10**7)
    assert not service.send_test(db, hook, user=None).taken
    assert len(receiver.calls) == 1
    assert len(service.send_test(db, hook, user=None).text) == 500


def test_addresses_inside_this_network_are_refused(db: Session, factory: Any, configured: None) -> None:
    project = factory.project()
    for url in ("http://127.0.0.1:9/x", "https://169.254.169.254/", "https://localhost/x", "ftp://example.org", "x"):
        with pytest.raises(InvalidError) as failed:
            _hook(db, project, url)
        assert "url" in failed.value.fields


def test_an_address_that_is_no_longer_allowed_is_not_called(
    db: Session, factory: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.settings import get_settings

    project = factory.project()
    _hook(db, project, receiver.url)
    monkeypatch.setenv("KTO_ALLOW_PRIVATE_ENDPOINTS", "[]")
    get_settings.cache_clear()
    events.emit(db, project.id, "run.finished", [{"id": 1}])
    deliver_due()
    assert receiver.calls == []
    assert "inside this network" in (_row(db).answer or "")


def test_a_rotated_secret_signs_beside_the_old_one_for_a_day(
    db: Session, factory: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = factory.project()
    hook, old = _hook(db, project, receiver.url)
    new = service.rotate(db, hook, user=None)
    service.send_test(db, hook, user=None)
    headers, body = receiver.calls[-1]
    for secret in (old, new):
        Verifier(secret).verify(body.decode(), headers)
    tomorrow = utcnow() + timedelta(hours=25)
    monkeypatch.setattr("app.webhooks.secrets.utcnow", lambda: tomorrow)
    service.send_test(db, hook, user=None)
    headers, body = receiver.calls[-1]
    Verifier(new).verify(body.decode(), headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(old).verify(body.decode(), headers)


def test_old_events_are_cleared_and_waiting_ones_are_not(db: Session, factory: Any, receiver: Receiver) -> None:
    project = factory.project()
    _hook(db, project, receiver.url)
    events.emit(db, project.id, "run.finished", [{"id": number} for number in range(3)])
    deliver_due()
    events.emit(db, project.id, "run.finished", [{"id": 9}])
    db.execute(update(OutboxEvent).values(created_at=utcnow() - timedelta(days=31)))
    assert service.clear_old(db) == 3
    assert db.scalar(select(func.count()).select_from(WebhookDelivery)) == 1
