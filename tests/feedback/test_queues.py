"""Queues over filters: what enters, in which order, and what a lead does with them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from app.core.redis import get_redis
from app.feedback import coverage, queue_fill, queue_task
from app.feedback import queue as claims
from app.models import AnnotationSlot, AuditEntry, Completion, Rating
from tests.evaluations.support import run_in


def queue_of(db: Any, project: Any, **values: Any) -> Any:
    return queue_fill.save_queue(db, project, {"name": "Refunds", "overlap": "1", "gold_percent": "0", **values})


def inside(db, queue) -> set[int]:
    return set(db.scalars(select(AnnotationSlot.completion_id).where(AnnotationSlot.queue_id == queue.id)))


def forget() -> None:
    for key in get_redis().scan_iter("queue:*"):
        get_redis().delete(key)


def test_what_fits_enters_once_and_what_comes_later_too(db, factory):
    forget()
    project = factory.project()
    queue = queue_of(db, project, model="m2", overlap="2")
    first = factory.completion(project, "a", model="m2")
    factory.completion(project, "b", model="m1")
    factory.completion(factory.project(), "c", model="m2")
    assert queue_task.fill(queue.id) == 2
    assert queue_task.fill(queue.id) == 0
    later = factory.completion(project, "d", model="m2")
    assert queue_task.fill(queue.id) == 2
    assert inside(db, queue) == {first.id, later.id}
    forget()
    assert queue_task.fill(queue.id) == 0, "looking again from the beginning changes nothing"


def test_the_disagreeing_and_the_thin(db, factory):
    forget()
    project = factory.project()
    split, agreed, bare = (factory.completion(project, text, category="sums") for text in "abc")
    rich = [factory.completion(project, f"r{n}", category="rich") for n in range(21)]
    for number, row in enumerate(rich[:20]):
        factory.rating(row, value=number % 2 == 0)
    factory.rating(agreed)
    disagreeing = queue_of(db, project, name="Split", state="split")
    thin = queue_of(db, project, name="Thin", state="low_coverage")
    assert queue_task.fill(disagreeing.id) == 0
    factory.rating(split, value=True)
    factory.rating(split, value=False, rater="other")
    assert queue_task.fill(disagreeing.id) == 1
    assert inside(db, disagreeing) == {split.id}
    queue_task.fill(thin.id)
    assert inside(db, thin) == {bare.id}, "rich has ten of each"


def test_thin_categories_come_first_and_take_turns(db, factory):
    forget()
    project = factory.project()
    queue, user = queue_of(db, project), factory.user()
    for number in range(6):
        factory.rating(factory.completion(project, f"rated {number}", category="full"), value=number % 2 == 0)
    for number in range(3):
        factory.rating(factory.completion(project, f"one-sided {number}", category="tilted"))
    waiting = [
        factory.completion(project, f"{name} {n}", category=name)
        for name in ("full", "tilted", "bare")
        for n in range(2)
    ]
    queue_fill.enter(db, queue, [row.id for row in waiting])
    order = coverage.new_order(db, project, queue)
    by_completion = {db.get_one(AnnotationSlot, slot).completion_id: priority for slot, priority in order}
    # floor(8 log2(1 + have + place)): full has 3 of each: have 6
    assert [by_completion[row.id] for row in waiting] == [22, 24, 0, 8, 0, 8]
    coverage.write_order(db, order)
    names = []
    while items := claims.hold(db, queue, user, want=1):
        names.append(items[0].prompt.category)
        claims.decide(db, queue, user, items[0].slot.id, None)
    assert names == ["tilted", "bare", "tilted", "bare", "full", "full"]


def test_a_collapsed_category_counts_a_quarter(db, factory, tmp_path):
    from tests.evaluations.support import alarm_in, checkpoint_of, evaluation_in

    project = factory.project()
    queue, run = queue_of(db, project), run_in(factory, project)
    alarm = alarm_in(factory, evaluation_in(factory, run, checkpoint_of(factory, run), tmp_path))
    for name in (alarm.subject, "calm"):
        for number in range(30):
            factory.rating(factory.completion(project, f"{name} {number}", category=name), value=number % 2 == 0)
    waiting = [factory.completion(project, f"{name} waits", category=name) for name in (alarm.subject, "calm")]
    queue_fill.enter(db, queue, [row.id for row in waiting])
    order = dict(coverage.new_order(db, project, queue))
    by_completion = {db.get_one(AnnotationSlot, slot).completion_id: priority for slot, priority in order.items()}
    assert [by_completion[row.id] for row in waiting] == [24, 39]
    assert coverage.alarmed_categories(db, project) == [alarm.subject]


def test_a_held_item_is_not_reordered(db, factory):
    project = factory.project()
    queue, user = queue_of(db, project), factory.user()
    queue_fill.enter(db, queue, [factory.completion(project, text).id for text in "abc"])
    (held,) = claims.hold(db, queue, user, want=1)
    coverage.write_order(db, coverage.new_order(db, project, queue))
    assert db.scalar(select(AnnotationSlot.priority).where(AnnotationSlot.id == held.slot.id)) == coverage.UNKNOWN
    assert db.scalar(select(func.count()).where(AnnotationSlot.priority == coverage.UNKNOWN)) == 1


def test_the_form(db, factory, sign_in):
    project = factory.project()
    client, base = sign_in(factory.member(project)), f"/p/{project.slug}/queues"
    bad = client.post(
        base, data={"name": "", "overlap": "11", "gold_percent": "90", "state": "odd", "instructions": "Kept?"}
    )
    assert bad.status_code == 422
    for words in ("1 to 80 characters", "a number from 1 to 10", "a number from 0 to 50", "one of unrated", "Kept?"):
        assert words in bad.text
    assert (
        client.post(
            base, data={"name": "Late refunds", "overlap": "2", "gold_percent": "10", "category": "x"}
        ).status_code
        == 303
    )
    queue = queue_fill.get_queue(db, project, "late-refunds")
    assert (queue.overlap, queue.gold_rate, queue.filter) == (2, 0.1, {"category": "x"})
    assert 'value="10"' in client.get(f"{base}/late-refunds/edit").text
    client.post(base, data={"name": "Late refunds", "overlap": "1", "gold_percent": "5"})
    assert [row.slug for row in queue_fill.list_queues(db, project)] == ["late-refunds", "late-refunds-2"]
    client.post(f"{base}/late-refunds/open", data={"is_open": "false"})
    assert "closed" in client.get(base).text
    assert "This queue is closed." in client.get(f"/p/{project.slug}/annotate/late-refunds").text
    actions = set(db.scalars(select(AuditEntry.action).where(AuditEntry.project_id == project.id)))
    assert actions == {"queue.created", "queue.closed"}
    assert client.get(f"{base}/new?category=tone").text.count('value="tone"') == 1


def test_a_closed_queue_gives_nothing_out(db, factory, sign_in):
    project = factory.project()
    lead = factory.member(project)
    queue = queue_of(db, project)
    queue_fill.enter(db, queue, [factory.completion(project).id])
    queue.is_open = False
    db.flush()
    client = sign_in(lead)
    client.post(f"/p/{project.slug}/annotate/{queue.slug}/claim")
    assert claims.held_ids(db, queue, lead) == []
    assert queue_task.fill(queue.id) == 0


def test_new_completions_enter_the_main_queue_only_while_it_takes_all(db, factory):
    project = factory.project()
    queue = queue_fill.default_queue(db, project)
    one, two = factory.completion(project, "a"), factory.completion(project, "b")
    queue_fill.queue_completions(db, project, [one.id])
    queue.filter = {"model": "m9"}
    db.flush()
    queue_fill.queue_completions(db, project, [two.id])
    assert inside(db, queue) == {one.id}


def test_a_correction_is_a_pair(db, factory, sign_in):
    project = factory.project()
    lead, original = factory.member(project), factory.completion(project, "Four weeks.")
    queue = queue_fill.default_queue(db, project)
    queue_fill.queue_completions(db, project, [original.id])
    (item,) = claims.hold(db, queue, lead)
    client, base = sign_in(lead), f"/p/{project.slug}/annotate/main"
    long = client.post(f"{base}/verdict", data={"slot": item.slot.id, "value": "down", "correction": "x" * 300_000})
    assert long.status_code == 422
    form = {"slot": item.slot.id, "value": "down", "correction": "Four days.", "reason": ["wrong_fact"]}
    assert client.post(f"{base}/verdict", data=form).status_code == 303
    assert client.post(f"{base}/verdict", data=form).status_code == 303
    edit = db.scalars(select(Completion).where(Completion.corrects_id == original.id)).one()
    assert (edit.text, edit.model, edit.prompt_id) == ("Four days.", None, original.prompt_id)
    rows = dict(db.execute(select(Rating.completion_id, Rating.value).where(Rating.is_current)).all())
    assert rows == {original.id: False, edit.id: True}
    client.post(f"{base}/undo")
    assert db.scalar(select(func.count()).where(Rating.is_current)) == 0
