"""Hidden gold items: mixed in unmarked, each once to a person, an answer that is no rating."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import func, select

from app.feedback import gold, queue_fill
from app.feedback import queue as claims
from app.feedback.queue_stats import progress
from app.models import AnnotationSlot, Rating


@pytest.fixture
def project(factory):
    return factory.project()


def work(db, queue, user, value=True) -> list[Any]:
    done = []
    while items := claims.hold(db, queue, user, want=1):
        claims.decide(db, queue, user, items[0].slot.id, value, took_ms=900)
        done.append(items[0])
    return done


def test_each_once_and_no_rating(db, factory, project):
    lead, user, other = factory.user(), factory.user(), factory.user()
    queue = queue_fill.save_queue(db, project, {"name": "Q", "overlap": "2", "gold_percent": "50"})
    second = queue_fill.save_queue(db, project, {"name": "R", "overlap": "2", "gold_percent": "50"})
    plain = [factory.completion(project, f"Answer {n}.") for n in range(40)]
    known = [factory.completion(project, f"Known {n}.") for n in range(3)]
    for row in known:
        gold.mark(db, project, row, lead, value=False)
    queue_fill.enter(db, queue, [row.id for row in plain])
    queue_fill.enter(db, second, [row.id for row in plain])
    for person in (user, other):
        seen = [item.completion.id for item in work(db, queue, person) + work(db, second, person)]
        assert len(seen) == len(set(seen)), "nothing twice, the gold items neither"
        assert {row.id for row in known} <= set(seen), "2^-40 that one is missed"
    assert db.scalar(select(func.count()).where(Rating.completion_id.in_([row.id for row in known]))) == 0
    slots = db.scalars(select(AnnotationSlot).where(AnnotationSlot.gold_id.is_not(None))).all()
    assert {(slot.gold_answer, slot.took_ms, slot.rating_id) for slot in slots} == {(True, 900, None)}
    assert progress(db, queue).total == 80, "a gold item is no wanted label"
    assert [(line.answers, line.right) for line in gold.lines(db, project)] == [(2, 0)] * 3


def test_undo_and_skip(db, factory, project):
    user = factory.user()
    queue = queue_fill.save_queue(db, project, {"name": "Q", "gold_percent": "50"})
    queue.gold_rate = 1.0
    gold.mark(db, project, factory.completion(project), factory.user(), value=True)
    (item,) = claims.hold(db, queue, user)
    claims.decide(db, queue, user, item.slot.id, False)
    assert claims.last_done(db, queue, user)[0].value is False
    assert claims.undo(db, queue, user) == item.slot.id
    slot = db.get_one(AnnotationSlot, item.slot.id, populate_existing=True)
    assert (slot.gold_answer, slot.done_at) == (None, None)
    claims.decide(db, queue, user, item.slot.id, None)
    assert db.get_one(AnnotationSlot, item.slot.id, populate_existing=True).gold_answer is None
    assert claims.hold(db, queue, user) == []


def test_given_back_it_is_nobody_elses(db, factory, project):
    user, other = factory.user(), factory.user()
    queue = queue_fill.save_queue(db, project, {"name": "Q", "gold_percent": "50"})
    queue.gold_rate = 1.0
    gold.mark(db, project, factory.completion(project), factory.user(), value=True)
    (item,) = claims.hold(db, queue, user)
    claims.release(db, queue, user)
    (theirs,) = claims.hold(db, queue, other)
    assert theirs.slot.id != item.slot.id
    assert [again.slot.id for again in claims.hold(db, queue, user)] == [item.slot.id]


def test_it_looks_like_any_other(db, factory, project, sign_in):
    lead = factory.member(project)
    queue = queue_fill.save_queue(db, project, {"name": "Q", "gold_percent": "50"})
    plain, known = (factory.completion(project, "Same words.", prompt=text) for text in ("Ask one?", "Ask two?"))
    gold.mark(db, project, known, lead, value=True)
    queue_fill.enter(db, queue, [plain.id])
    client, base = sign_in(lead), f"/p/{project.slug}/annotate/{queue.slug}"
    pages = []
    for rate in (0.0, 1.0):
        queue.gold_rate = rate
        db.flush()
        page = client.post(
            f"{base}/claim", headers={"X-Annotate-Part": "1"}, data={"have": claims.held_ids(db, queue, lead)}
        )
        pages.append(re.sub(r"\d+", "n", page.text).replace("Ask one", "Ask").replace("Ask two", "Ask"))
    assert "Same words." in pages[0]
    assert pages[0] == pages[1]


def test_a_lead_marks_and_retires(db, factory, project, sign_in):
    lead, completion, foreign = (
        factory.member(project),
        factory.completion(project),
        factory.completion(factory.project()),
    )
    client, base = sign_in(lead), f"/p/{project.slug}/gold"
    assert "Which verdict is right?" in client.get(f"{base}/item?completion_id={completion.id}").text
    assert client.post(base, data={"completion_id": completion.id, "value": "maybe"}).status_code == 422
    assert client.post(base, data={"completion_id": foreign.id, "value": "up"}).status_code == 404
    assert (
        client.post(base, data={"completion_id": completion.id, "value": "up", "note": "n" * 2001}).status_code == 422
    )
    assert (
        client.post(base, data={"completion_id": completion.id, "value": "up", "note": "By the policy."}).status_code
        == 303
    )
    item = gold.of_completion(db, project, completion.id)
    assert item is not None
    assert (item.value, item.note) == (True, "By the policy.")
    assert "By the policy." in client.get(f"{base}/item?completion_id={completion.id}").text
    assert client.post(f"{base}/{item.id}/retire").status_code == 303
    assert gold.of_completion(db, project, completion.id) is None
    assert client.post(f"{base}/999999/retire").status_code == 404
