"""Claims and verdicts: nobody gets an item twice, nobody's verdict is lost or doubled."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.feedback import queue as claims
from app.feedback.queue_fill import (
    default_queue,
    get_queue,
    progress,
    queue_completions,
    queue_everything,
    queue_unlabelled,
)
from app.feedback.ratings import rate
from app.models import AnnotationQueue, AnnotationSlot, Completion, Project, Prompt, Rating, User


@pytest.fixture
def project(factory):
    return factory.project()


def filled(db, factory, project, size=3) -> AnnotationQueue:
    rows = [factory.completion(project, f"Answer {n}.") for n in range(size)]
    queue_completions(db, project, [row.id for row in rows])
    return default_queue(db, project)


def ids(items) -> list[int]:
    return [item.slot.id for item in items]


def expire(db) -> None:
    db.execute(update(AnnotationSlot).values(claimed_until=utcnow() - timedelta(seconds=1)))


def test_two_people_hold_different_items(db, factory, project):
    queue = filled(db, factory, project)
    first, second = factory.user(), factory.user()
    mine, yours = claims.hold(db, queue, first), claims.hold(db, queue, second)
    assert len(mine) == 2
    assert len(yours) == 1
    assert not set(ids(mine)) & set(ids(yours))
    assert ids(claims.hold(db, queue, first)) == ids(mine), "a reload shows the same"


def test_a_verdict_counts_once(db, factory, project):
    queue, user = filled(db, factory, project), factory.user()
    slot = claims.hold(db, queue, user)[0].slot.id
    rating = claims.decide(db, queue, user, slot, True, reasons=["tone"], comment="Fine.")
    assert claims.decide(db, queue, user, slot, True) == rating
    row = db.scalar(select(Rating))
    assert (row.source, row.rater, row.value, row.reasons, row.comment) == (
        "annotation", f"user:{user.id}", True, ["tone"], "Fine.",
    )  # fmt: skip
    assert slot not in ids(claims.hold(db, queue, user))
    assert (progress(db, queue).done, progress(db, queue).left) == (1, 2)


def test_a_lost_lease(db, factory, project):
    queue, slow, quick = filled(db, factory, project, 1), factory.user(), factory.user()
    slot = claims.hold(db, queue, slow)[0].slot.id
    assert claims.hold(db, queue, quick) == []
    expire(db)
    assert ids(claims.hold(db, queue, quick)) == [slot]
    with pytest.raises(ConflictError, match="Someone else has this one now"):
        claims.decide(db, queue, slow, slot, True)
    assert claims.decide(db, queue, quick, slot, False) is not None
    assert db.scalars(select(Rating.rater)).all() == [f"user:{quick.id}"]


def test_an_expired_lease_that_nobody_took_still_counts(db, factory, project):
    queue, user = filled(db, factory, project, 1), factory.user()
    slot = claims.hold(db, queue, user)[0].slot.id
    expire(db)
    assert claims.decide(db, queue, user, slot, True) is not None


def test_an_item_given_back_by_a_reload_still_counts_while_nobody_took_it(db, factory, project):
    queue, user, other = filled(db, factory, project, 2), factory.user(), factory.user()
    first, second = ids(claims.hold(db, queue, user))
    claims.release(db, queue, user)
    assert claims.decide(db, queue, user, first, True) is not None
    assert second in ids(claims.hold(db, queue, other))
    with pytest.raises(ConflictError, match="Someone else has this one now"):
        claims.decide(db, queue, user, second, True)


def test_heartbeat_and_release(db, factory, project):
    queue, user, other = filled(db, factory, project, 1), factory.user(), factory.user()
    claims.hold(db, queue, user)
    expire(db)
    assert claims.renew(db, queue, user) == 1
    assert claims.hold(db, queue, other) == []
    claims.release(db, queue, user)
    assert len(claims.hold(db, queue, other)) == 1


def test_skip_and_undo(db, factory, project):
    queue, user = filled(db, factory, project), factory.user()
    first, second = ids(claims.hold(db, queue, user))
    claims.decide(db, queue, user, first, True)
    claims.hold(db, queue, user)
    assert claims.decide(db, queue, user, second, None, reasons=["unsure"]) is None
    assert [done.value for done in claims.last_done(db, queue, user)] == [None, True]
    assert claims.undo(db, queue, user) == second
    assert claims.undo(db, queue, user) == first
    assert claims.undo(db, queue, user) is None
    assert db.execute(select(Rating.is_current, Rating.retracted_at.is_(None))).one() == (False, False)
    assert {first, second} <= set(ids(claims.held(db, queue, user)))
    assert claims.decide(db, queue, user, first, False) is not None
    assert db.scalars(select(Rating.value).where(Rating.is_current)).all() == [False]


def test_one_person_never_gets_a_completion_twice(db, factory, project):
    queue = filled(db, factory, project, 2)
    assert queue_everything(db, project, queue, 2) == 2
    first, second = factory.user(), factory.user()
    held = claims.hold(db, queue, first, want=4)
    assert len({item.completion.id for item in held}) == len(held) == 2
    for item in held:
        claims.decide(db, queue, first, item.slot.id, True)
    assert claims.hold(db, queue, first) == []
    other = claims.hold(db, queue, second)
    assert {item.completion.id for item in other} == {item.completion.id for item in held}


def test_what_one_rated_elsewhere_is_not_offered(db, factory, project):
    queue, user, other = filled(db, factory, project, 1), factory.user(), factory.user()
    completion = db.scalar(select(AnnotationSlot.completion_id))
    rate(db, project.id, completion, source=claims.SOURCE, rater=claims.rater_of(user), value=True)
    assert claims.hold(db, queue, user) == []
    assert len(claims.hold(db, queue, other)) == 1


def test_filling(db, factory, project):
    rated, bare, foreign = (
        factory.completion(project),
        factory.completion(project),
        factory.completion(factory.project()),
    )
    factory.rating(rated)
    factory.rating(foreign)
    queue, user = default_queue(db, project), factory.user()
    assert queue_unlabelled(db, project, queue) == 1
    assert queue_unlabelled(db, project, queue) == 0
    (item,) = claims.hold(db, queue, user)
    assert item.completion.id == bare.id
    claims.decide(db, queue, user, item.slot.id, None)
    assert queue_unlabelled(db, project, queue) == 1, "skipped by all is wanted again"
    assert claims.hold(db, queue, user) == [], "but not from the one who skipped"
    assert queue_everything(db, project, queue, 3) == 5
    assert queue_everything(db, project, queue, 3) == 0
    with pytest.raises(InvalidError):
        queue_everything(db, project, queue, 11)


def test_queues_of_other_projects_do_not_exist(db, factory, project):
    queue, other, user = filled(db, factory, project), factory.project(), factory.user()
    with pytest.raises(NotFoundError):
        get_queue(db, other, queue.slug)
    slot = claims.hold(db, queue, user)[0].slot.id
    with pytest.raises(NotFoundError):
        claims.decide(db, default_queue(db, other), user, slot, True)


def _seed(people: int, size: int, overlap: int) -> None:
    from app.core.db import session_scope

    with session_scope() as db:
        project = Project(slug="p", name="P", split_salt="s")
        db.add_all([project, *(User(email=f"u{n}@x.org", name="U") for n in range(people))])
        db.flush()
        prompt = Prompt(project_id=project.id, content_hash="p", messages=[], root="r")
        db.add(prompt)
        db.flush()
        rows = [
            Completion(project_id=project.id, prompt_id=prompt.id, content_hash=str(n), messages=[], text="x")
            for n in range(size)
        ]
        db.add_all(rows)
        db.flush()
        queue_everything(db, project, default_queue(db, project), overlap)


def _work_until_done(person: int) -> list[int]:
    """Holds one item, decides it, until none is left; returns the completions judged."""
    from app.core.db import session_scope

    judged: list[int] = []
    while True:
        with session_scope() as db:
            queue, user = (
                db.scalars(select(AnnotationQueue)).one(),
                db.scalars(select(User).where(User.email == f"u{person}@x.org")).one(),
            )
            items = claims.hold(db, queue, user)
        if not items:
            return judged
        with session_scope() as db:
            queue, user = (
                db.scalars(select(AnnotationQueue)).one(),
                db.scalars(select(User).where(User.email == f"u{person}@x.org")).one(),
            )
            claims.decide(db, queue, user, items[0].slot.id, bool(person % 2))
            judged.append(items[0].completion.id)


@pytest.mark.parametrize(("people", "size", "overlap"), [(16, 120, 1), (16, 40, 3)])
def test_many_people_at_once(committed_db, people, size, overlap):
    from app.core.db import session_scope

    _seed(people, size, overlap)
    with ThreadPoolExecutor(people) as pool:
        judged = list(pool.map(_work_until_done, range(people)))
    every = [completion for mine in judged for completion in mine]
    assert len(every) == size * overlap
    assert len(set(every)) == size
    assert all(len(set(mine)) == len(mine) for mine in judged)
    with session_scope() as db:
        ratings = db.execute(select(Rating.completion_id, func.count()).group_by(Rating.completion_id)).all()
        assert {number for _, number in ratings} == {overlap}


def test_one_person_in_two_tabs(committed_db):
    _seed(1, 10, 2)

    def take(_: int) -> list[int]:
        from app.core.db import session_scope

        with session_scope() as db:
            queue, user = db.scalars(select(AnnotationQueue)).one(), db.scalars(select(User)).one()
            return [item.completion.id for item in claims.hold(db, queue, user, want=6)]

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(take, range(4)))
    assert all(len(set(tab)) == len(tab) == 6 for tab in seen)
    assert len({tuple(tab) for tab in seen}) == 1
