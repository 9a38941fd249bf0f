"""One verdict on everything that a filter finds, and one step back."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.feedback import bulk_labels, queue_fill
from app.feedback import queue as claims
from app.feedback.edits import store_edit
from app.feedback.filters import Filter
from app.feedback.ratings import Verdict, rate, retract, store_verdicts
from app.models import AnnotationSlot, AuditEntry, BulkLabel, CompletionVotes, Rating


@pytest.fixture
def project(factory):
    return factory.project()


def current(db, user) -> dict[int, bool]:
    query = select(Rating.completion_id, Rating.value).where(Rating.rater == claims.rater_of(user), Rating.is_current)
    return dict(db.execute(query).all())


def test_all_that_fit_and_back_again(db, factory, project):
    user, other = factory.user(), factory.user()
    rows = [factory.completion(project, text, model="m2") for text in "abcd"]
    outside = factory.completion(project, "e", model="m1")
    foreign = factory.completion(factory.project(), "f", model="m2")
    same, opposite, withdrawn, bare = rows

    def mine(row: Any, value: bool) -> Any:
        return rate(db, project.id, row.id, source=claims.SOURCE, rater=claims.rater_of(user), value=value)[1]

    mine(same, False)
    former = mine(opposite, True)
    retract(db, project.id, mine(withdrawn, True))
    rate(db, project.id, bare.id, source=claims.SOURCE, rater=claims.rater_of(other), value=True)
    before = current(db, user)
    found = bulk_labels.preview(db, project, Filter(model="m2"))
    assert (found.count, found.through, len(found.sample)) == (4, bare.id, 4)
    late = factory.completion(project, "late", model="m2")
    made = bulk_labels.apply(db, project, user, Filter(model="m2"), value=False, through=found.through, reason="Old.")
    assert made is not None
    assert made.num_labelled == 3, "one had this verdict"
    assert current(db, user) == {row.id: False for row in rows}
    assert late.id not in current(db, user)
    assert not {outside.id, foreign.id} & set(current(db, user))
    assert set(db.scalars(select(Rating.comment).where(Rating.bulk_id == made.id))) == {"Old."}
    assert bulk_labels.apply(db, project, user, Filter(model="m2"), value=False, through=found.through) is None

    assert bulk_labels.undo(db, project, made.id) == 3
    assert current(db, user) == before
    assert db.scalar(select(Rating.is_current).where(Rating.id == former))
    votes = db.execute(select(CompletionVotes.ups, CompletionVotes.downs).order_by(CompletionVotes.completion_id)).all()
    assert [tuple(row) for row in votes[:4]] == [(0, 1), (1, 0), (0, 0), (1, 0)]
    with pytest.raises(ConflictError):
        bulk_labels.undo(db, project, made.id)
    with pytest.raises(NotFoundError):
        bulk_labels.undo(db, factory.project(), made.id)


def test_what_was_judged_anew_stays(db, factory, project):
    user, row = factory.user(), factory.completion(project)
    made = bulk_labels.apply(db, project, user, Filter(), value=True, through=row.id)
    assert made is not None
    rate(db, project.id, row.id, source=claims.SOURCE, rater=claims.rater_of(user), value=False)
    assert bulk_labels.undo(db, project, made.id) == 0
    assert current(db, user) == {row.id: False}


def test_an_edit_counts_again_when_its_rating_does(db, factory, project):
    user, row = factory.user(), factory.completion(project, "Worse.")
    edit_id = store_edit(db, project.id, row.id, "Better.")
    given = Verdict(row.id, claims.rater_of(user), value=False, correction_id=edit_id)
    store_verdicts(db, project.id, claims.SOURCE, [given])
    before = current(db, user)
    assert before == {row.id: False, edit_id: True}
    made = bulk_labels.apply(db, project, user, Filter(), value=True, through=row.id)
    assert made is not None
    assert current(db, user) == {row.id: True}
    bulk_labels.undo(db, project, made.id)
    assert current(db, user) == before


def test_nobody_is_asked_for_what_is_there(db, factory, project):
    lead, user = factory.user(), factory.user()
    queue = queue_fill.default_queue(db, project)
    rows = [factory.completion(project, text) for text in "abc"]
    queue_fill.queue_completions(db, project, [row.id for row in rows])
    (held,) = claims.hold(db, queue, user, want=1)
    made = bulk_labels.apply(db, project, lead, Filter(), value=True, through=rows[-1].id)
    assert made is not None
    assert [item.slot.id for item in claims.hold(db, queue, user)] == [held.slot.id], "what is held is left alone"
    assert claims.last_done(db, queue, lead) == [], "no key takes back a part of it"
    bulk_labels.undo(db, project, made.id)
    assert len(claims.hold(db, queue, user, want=3)) == 3
    assert db.scalar(select(func.count(AnnotationSlot.done_at))) == 0


def test_too_many(db, factory, project, monkeypatch):
    monkeypatch.setattr(bulk_labels, "LIMIT", 2)
    rows = [factory.completion(project, text) for text in "abc"]
    assert bulk_labels.preview(db, project, Filter()).too_many
    with pytest.raises(InvalidError) as raised:
        bulk_labels.apply(db, project, factory.user(), Filter(), value=True, through=rows[-1].id)
    assert raised.value.fields == {"value": "at most 2: narrow the filter"}
    assert db.scalar(select(func.count()).select_from(BulkLabel)) == 0


def test_the_page(db, factory, project, sign_in):
    lead = factory.member(project)
    rows = [factory.completion(project, f"Answer <b>{n}</b>", category="tone") for n in range(7)]
    client, base = sign_in(lead), f"/p/{project.slug}/bulk"
    page = client.get(f"{base}?category=tone")
    assert "7 completions" in page.text
    assert "The newest 5 of 7" in page.text
    assert "Answer &lt;b&gt;6" in page.text
    form = {"category": "tone", "through": rows[-1].id, "value": "down", "reason": "Cold."}
    assert client.post(base, data=form | {"value": "both"}).status_code == 422
    long = client.post(base, data=form | {"reason": "x" * 501})
    assert long.status_code == 422
    assert "at most 500 characters" in long.text
    assert client.post(base, data=form).status_code == 303
    made = db.scalars(select(BulkLabel)).one()
    shown = client.get(base)
    assert f"{base}/{made.id}/undo" in shown.text
    client.post(base, data=form)
    assert db.scalar(select(func.count()).select_from(BulkLabel)) == 1
    assert client.post(f"{base}/{made.id}/undo").status_code == 303
    assert client.post(f"{base}/{made.id}/undo").status_code == 409
    actions = db.scalars(select(AuditEntry.action).where(AuditEntry.project_id == project.id)).all()
    assert actions == ["bulk.labelled", "bulk.undone"]
    assert current(db, lead) == {}
