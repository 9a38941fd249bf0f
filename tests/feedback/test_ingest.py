"""Items of feedback become rows: once, with history, whoever sends them at the same time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select, text

from app.feedback.ratings import rate, retract
from app.feedback.schemas import parse_item
from app.feedback.service import ingest, prompt_hash
from app.models import AnnotationSlot, Completion, Project, Prompt, Rating


def item(completion: str = "Three days.", label=True, **more):
    return parse_item({"prompt": "How long?", "completion": completion, "label": label, **more})


def statuses(results) -> list[str]:
    return [result.status for result in results]


def count(db, table) -> int:
    return int(db.scalar(select(func.count()).select_from(table)))


def test_the_same_item_again_is_unchanged(db, factory):
    project = factory.project()
    items = [item(rater="r1"), item("Four days.", False, rater="r1", category="refunds")]
    first = ingest(db, project, items, "shop")
    second = ingest(db, project, items, "shop")
    assert statuses(first) == ["created", "created"]
    assert statuses(second) == ["unchanged", "unchanged"]
    assert [result.id for result in first] == [result.id for result in second]
    assert (count(db, Prompt), count(db, Completion), count(db, Rating)) == (2, 2, 2)


def test_ids_follow_the_order_of_the_items(db, factory):
    items = [item(f"Answer {number}.") for number in range(20)]
    ids = [result.output_id or 0 for result in ingest(db, factory.project(), items, "shop")]
    assert ids == sorted(set(ids))


def test_a_changed_mind_supersedes_and_keeps_history(db, factory):
    project = factory.project()
    ingest(db, project, [item(rater="r1")], "shop")
    assert statuses(ingest(db, project, [item(label="down", rater="r1")], "shop")) == ["updated"]
    assert statuses(ingest(db, project, [item(label="up", rater="r1")], "shop")) == ["updated"]
    rows = db.execute(select(Rating.value, Rating.is_current).order_by(Rating.id)).all()
    assert [tuple(row) for row in rows] == [(True, False), (False, False), (True, True)]


def test_a_late_comment_updates_and_keeps_the_reasons(db, factory):
    project = factory.project()
    ingest(db, project, [item(rater="r1", reasons=["tone"])], "shop")
    assert statuses(ingest(db, project, [item(rater="r1", comment="Cold.")], "shop")) == ["updated"]
    assert statuses(ingest(db, project, [item(rater="r1")], "shop")) == ["unchanged"]
    current = db.scalar(select(Rating).where(Rating.is_current))
    assert (current.reasons, current.comment) == (["tone"], "Cold.")


def test_an_older_verdict_never_replaces_a_newer_one(db, factory):
    project = factory.project()
    old, new = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    ingest(db, project, [item(rater="r1", occurred_at=new)], "shop")
    assert statuses(ingest(db, project, [item(label=False, rater="r1", occurred_at=old)], "shop")) == ["unchanged"]
    assert db.scalar(select(Rating.value).where(Rating.is_current)) is True


def test_duplicates_inside_one_batch(db, factory):
    project = factory.project()
    items = [item(rater="r1"), item(rater="r1"), item(label=False, rater="r1"), item(rater="r2")]
    results = ingest(db, project, items, "shop")
    assert statuses(results) == ["created", "unchanged", "updated", "created"]
    assert results[0].id == results[1].id
    assert {result.output_id for result in results} == {results[0].output_id}
    current = db.execute(select(Rating.rater, Rating.value).where(Rating.is_current).order_by(Rating.rater)).all()
    assert [tuple(row) for row in current] == [("r1", False), ("r2", True)]


def test_anonymous_opposites_are_both_evidence(db, factory):
    project = factory.project()
    results = ingest(db, project, [item(), item(label=False), item(), item(label=False)], "import")
    assert statuses(results) == ["created", "created", "unchanged", "unchanged"]
    rows = db.execute(select(Rating.rater, Rating.value).where(Rating.is_current).order_by(Rating.id)).all()
    assert [tuple(row) for row in rows] == [("anonymous:up", True), ("anonymous:down", False)]


def test_an_outputs_or_a_feedbacks_id_stands_for_the_rater(db, factory):
    project = factory.project()
    for identity in ({"completion_id": "msg-1"}, {"external_id": "fb-1"}):
        assert statuses(ingest(db, project, [item(**identity)], "shop")) == ["created"]
        assert statuses(ingest(db, project, [item(label=False, **identity)], "shop")) == ["updated"]
    raters = set(db.scalars(select(Rating.rater).where(Rating.is_current)))
    assert raters == {"output:msg-1", "feedback:fb-1"}


def test_an_outputs_id_finds_it_and_names_one_text_only(db, factory):
    project = factory.project()
    first = ingest(db, project, [item(completion_id="msg-1", model="m1", rater="a")], "shop")[0]
    again, other = ingest(
        db, project, [item(completion_id="msg-1", rater="b"), item("Else.", completion_id="msg-1", rater="b")], "shop"
    )
    assert again.output_id == first.output_id
    assert other.status == "error"
    assert "one id per output" in other.fields["completion_id"]
    assert count(db, Completion) == 1


def test_models_finish_reasons_and_conversations_tell_outputs_apart(db, factory):
    project = factory.project()
    items = [item(model="m1"), item(model="m2"), item(model="m1", finish_reason="length"), item(conversation_id="c")]
    assert len({result.output_id for result in ingest(db, project, items, "shop")}) == 4


def test_without_a_label_the_completion_waits_in_the_queue(db, factory):
    project = factory.project()
    results = ingest(db, project, [item(label=None), item(label=None), item("Rated.")], "shop")
    assert statuses(results) == ["created", "unchanged", "created"]
    assert results[0].id is None
    assert db.scalars(select(AnnotationSlot.completion_id)).all() == [results[0].output_id]


def test_projects_are_apart(db, factory):
    first, second = factory.project(), factory.project()
    assert statuses(ingest(db, first, [item(rater="r", completion_id="x")], "shop")) == ["created"]
    assert statuses(ingest(db, second, [item(rater="r", completion_id="x")], "shop")) == ["created"]
    rows = db.execute(select(Rating.project_id, Completion.project_id).join(Rating.completion)).all()
    assert [tuple(row) for row in rows] == [(first.id, first.id), (second.id, second.id)]


def test_unclick(db, factory):
    project = factory.project()
    completion = factory.completion(project)
    _, rating_id = rate(db, project.id, completion.id, source="annotation", rater="user:1", value=True)
    assert not retract(db, factory.project().id, rating_id)
    assert retract(db, project.id, rating_id)
    assert not retract(db, project.id, rating_id)
    assert rate(db, project.id, completion.id, source="annotation", rater="user:1", value=True)[0] == "created"


def test_a_client_and_a_file_that_wait_for_each_other_both_get_through(committed_db):
    """The file holds x and wants y, the client holds y and wants x: the client lets go, the file goes on."""
    from app.core.db import session_scope

    with session_scope() as db:
        db.add(Project(slug="p", name="P", split_salt="s"))
    texts = {prompt_hash([{"role": "user", "content": f"Q{n}"}], None, None): f"Q{n}" for n in range(2)}
    low, high = (parse_item({"prompt": texts[key], "completion": "A.", "label": 1}) for key in sorted(texts))

    def client() -> list[str]:
        with session_scope() as db:
            return statuses(ingest(db, db.scalars(select(Project)).one(), [low, high], "import"))

    with ThreadPoolExecutor(1) as pool:
        with session_scope() as db:
            project = db.scalars(select(Project)).one()
            assert statuses(ingest(db, project, [high], "import", from_file=True)) == ["created"]
            other = pool.submit(client)
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            for _ in range(200):
                if db.scalar(waiting):
                    break
                time.sleep(0.02)
            assert statuses(ingest(db, project, [low], "import", from_file=True)) == ["created"]
        assert other.result(30) == ["unchanged", "unchanged"]


@pytest.mark.parametrize("reverse", [False, True])
def test_two_clients_at_once_leave_one_row_each(committed_db, reverse):
    from app.core.db import session_scope

    with session_scope() as db:
        db.add(Project(slug="p", name="P", split_salt="s"))
    items = [parse_item({"prompt": f"Q {n}?", "completion": "A.", "label": True, "rater": "r1"}) for n in range(60)]

    def send(worker: int) -> list[str]:
        mine = items[::-1] if reverse and worker % 2 else items
        seen = []
        for part in (mine[:30], mine[30:]):
            with session_scope() as db:
                seen += statuses(ingest(db, db.scalars(select(Project)).one(), part, "shop"))
        return seen

    with ThreadPoolExecutor(4) as pool:
        seen = [status for result in pool.map(send, range(4)) for status in result]
    assert seen.count("created") == 60
    assert seen.count("unchanged") == 180
    with session_scope() as db:
        assert (count(db, Prompt), count(db, Completion), count(db, Rating)) == (60, 60, 60)
