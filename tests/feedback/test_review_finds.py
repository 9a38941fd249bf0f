"""Corners where feedback was once lost, doubled, let through or answered with a server's error."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from sqlalchemy import delete, func, select

from app.accounts.keys import create_key
from app.core.db import new_session, session_scope
from app.core.errors import ConflictError, InvalidError
from app.feedback import hot, outputs
from app.feedback.imports import drafts
from app.feedback.queue import hold
from app.feedback.queue_fill import default_queue, queue_completions
from app.feedback.schemas import ItemResult, parse_feedback
from app.feedback.service import ingest, take_back
from app.models import Completion, Import, ImportRow, Project, Prompt, Rating, Role
from app.privacy import erasing

PAGE = "https://shop.example.org"
PAIR: dict[str, Any] = {
    "request": {"messages": [{"role": "user", "content": "Hi"}]},
    "response": {"object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": "Hello."}}]},
}


@pytest.fixture
def api(client: Any, factory: Any) -> Any:
    client.headers["Authorization"] = f"Bearer {factory.api_key(factory.project())}"
    return client


def test_a_pages_key_cannot_take_a_servers_name(db: Any, factory: Any) -> None:
    """Its thumbs would be stored as that server's, and could replace these."""
    project = factory.project()
    create_key(db, project, "Help desk")
    with pytest.raises(InvalidError, match="not created") as refused:
        create_key(db, project, "help-desk", kind="publishable", origins=[PAGE])
    assert "other kind" in refused.value.fields["name"]
    assert create_key(db, factory.project(), "Help desk", kind="publishable", origins=[PAGE])


def test_an_annotators_comment_is_looked_through_for_personal_data(
    client: Any, db: Any, factory: Any, sign_in: Any
) -> None:
    project = factory.project()
    project.settings = {"privacy": {"mode": "redact"}}
    queue = default_queue(db, project)
    completion = factory.completion(project)
    queue_completions(db, project, [completion.id])
    user = factory.member(project, Role.ANNOTATOR)
    slot = hold(db, queue, user, want=1)[0].slot.id
    body = {"slot": slot, "value": "down", "comment": "ask ada@example.org"}
    assert sign_in(user).post(f"/p/{project.slug}/annotate/{queue.slug}/verdict", data=body).status_code == 303
    assert db.scalars(select(Rating.comment)).all() == ["ask [email]"]


def test_a_page_cannot_walk_through_our_numbers(client: Any, db: Any, factory: Any) -> None:
    project = factory.project()
    output = factory.completion(project)
    token = create_key(db, project, "Shop pages", kind="publishable", origins=[PAGE])[1]
    head = {"Authorization": f"Bearer {token}", "Origin": PAGE}
    body = {"output_id": output.id, "rater": "c-81", "up": False}
    assert client.post("/api/v1/feedback", json=body, headers=head).status_code == 403
    assert client.put("/api/v1/feedback/shop-pages/f1", json=body, headers=head).status_code == 403
    assert db.scalar(select(func.count()).select_from(Rating)) == 0


def test_erasing_a_rater_keeps_an_apps_own_output_that_reads_like_their_edit(db: Any, factory: Any) -> None:
    project = factory.project()
    items = [
        {"prompt": "How?", "completion": "Better.", "label": True, "rater": "bo"},
        {"prompt": "How?", "completion": "Worse.", "rater": "ada", "correction": "Better.", "model": "m1"},
    ]
    ingest(db, project, [parse_feedback(item) for item in items], "shop")
    erasure = erasing.request(db, project, "rater", "ada")
    assert erasing.work(erasure.id) == "done"
    assert db.scalars(select(Rating.rater)).all() == ["bo"]


def test_erasing_a_rater_takes_their_edit(db: Any, factory: Any) -> None:
    project = factory.project()
    item = {"prompt": "How?", "completion": "Worse.", "rater": "ada", "correction": "Better.", "model": "m1"}
    ingest(db, project, [parse_feedback(item)], "shop")
    erasure = erasing.request(db, project, "rater", "ada")
    assert erasing.work(erasure.id) == "done"
    assert db.scalars(select(Completion.text)).all() == ["Worse."]


def _choice(**delta: Any) -> dict[str, Any]:
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
    return {**PAIR, "response": [chunk]}


@pytest.mark.parametrize(
    "pair",
    [
        {**PAIR, "response": {**PAIR["response"], "object": {"a": 1}}},
        {**PAIR, "response": {**PAIR["response"], "object": ["a"]}},
        _choice(tool_calls=[{"index": 0, "function": {"name": 5}}]),
        _choice(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": {"a": 1}}}]),
    ],
)
def test_odd_logged_calls_are_refused_by_name(api: Any, pair: dict[str, Any]) -> None:
    answer = api.post("/api/v1/completions/openai", json=pair)
    assert answer.status_code == 200, answer.text
    assert answer.json()["errors"] == 1


def _span(*extra: dict[str, Any], answer: str = '[{"role":"assistant","parts":[]}]') -> dict[str, Any]:
    asked = '[{"role":"user","parts":[{"type":"text","content":"Hi"}]}]'
    attributes = [
        {"key": "gen_ai.input.messages", "value": {"stringValue": asked}},
        {"key": "gen_ai.output.messages", "value": {"stringValue": answer}},
        *extra,
    ]
    span = {"traceId": "t", "spanId": "s", "attributes": attributes}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


@pytest.mark.parametrize(
    "body",
    [
        _span({"key": "gen_ai.request.seed", "value": {"intValue": None}}),
        _span({"key": "gen_ai.request.seed", "value": {"intValue": {}}}),
        _span({"key": "gen_ai.response.finish_reasons", "value": {"intValue": "5"}}),
        _span(answer='[{"role":"assistant","parts":[],"finish_reason":{"a":1}}]'),
    ],
)
def test_odd_traces_are_refused_by_name(api: Any, body: dict[str, Any]) -> None:
    answer = api.post("/api/v1/otel/v1/traces", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["partialSuccess"]["rejectedSpans"] == "1"


def test_a_prompt_that_goes_under_a_writer_is_stored_again(committed_db: Any, monkeypatch: Any) -> None:
    """A cancelled import removes prompts without completions, an erasure those of a person."""
    with session_scope() as db:
        project = Project(slug="p", name="P", split_salt="s")
        db.add(project)
        db.flush()
        items = [parse_feedback({"prompt": "How?", "completion": "So.", "label": True})]
        row = outputs.prepare(project, items[0])
        outputs.store_prompts(db, project, [row])
    real = outputs.insert_completions
    calls: list[int] = []

    def late(*args: Any) -> Any:
        if not calls:
            with session_scope() as other:
                other.execute(delete(Prompt))
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(outputs, "insert_completions", late)
    with session_scope() as db:
        assert [each.status for each in ingest(db, db.get_one(Project, project.id), items, "shop")] == ["created"]
    assert len(calls) == 2


def test_no_request_is_left_waiting_when_a_batch_has_just_ended(monkeypatch: Any) -> None:
    """The next one comes in the very turn of the event loop in which the batcher found nothing to do."""
    monkeypatch.setattr(hot, "store", lambda batch: [ItemResult(index=0, status="unchanged") for _ in batch])

    request: Any = None  # The batch that reads it is replaced.

    async def at(batcher: Any, turns: int) -> None:
        await batcher.send(hot.Ask(request, "", None))
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(batcher.send(hot.Ask(request, "", None)), 5)

    async def main() -> None:
        for turns in range(8):
            await at(hot._Batcher(asyncio.get_running_loop()), turns)

    asyncio.run(main())


def test_a_change_that_comes_late_takes_no_rows_from_a_started_import(committed_db: Any) -> None:
    """Start pressed twice: the second request read the draft before the first one started it."""
    with session_scope() as db:
        project = Project(slug="p", name="P", split_salt="s")
        db.add(project)
        db.flush()
        file = io.BytesIO(b'{"prompt": "How?", "completion": "So.", "label": true}\n')
        import_id = drafts.make_draft(db, project, file, filename="a.jsonl").id
    late = new_session()
    entry = late.get_one(Import, import_id)
    with session_scope() as db:
        drafts.start(db, db.get_one(Import, import_id), ring=False)
        db.add(ImportRow(import_id=import_id, number=1, line=1, item={}))
    with pytest.raises(ConflictError):
        drafts.change_draft(late, entry, {})
    late.commit()
    late.close()
    with session_scope() as db:
        assert db.scalar(select(func.count()).select_from(ImportRow)) == 1


@pytest.mark.parametrize("flip", [False, True])
def test_one_output_named_with_and_without_its_model_in_one_batch(db: Any, factory: Any, flip: bool) -> None:
    """As when they come one after another: the same texts under one id are one output."""
    logged = {"prompt": "How?", "completion": "So.", "completion_id": "msg-1", "model": "m1"}
    rated = {"prompt": "How?", "completion": "So.", "completion_id": "msg-1", "label": True, "rater": "u1"}
    items = [parse_feedback(item) for item in ([rated, logged] if flip else [logged, rated])]
    results = ingest(db, factory.project(), items, "shop")
    assert [result.status for result in results if result.status == "error"] == []
    assert db.scalar(select(func.count()).select_from(Completion)) == 1
    assert db.scalars(select(Rating.value).where(Rating.is_current)).all() == [True]


def test_waiting_feedback_whose_edit_changes_nothing_can_be_taken_back(db: Any, factory: Any) -> None:
    project = factory.project()
    thumb = {"completion_id": "msg-1", "external_id": "f1", "rater": "ada", "correction": "So."}
    ingest(db, project, [parse_feedback(thumb)], "shop")
    output = {"prompt": "How?", "completion": "So.", "completion_id": "msg-1"}
    ingest(db, project, [parse_feedback(output)], "shop")
    assert db.scalars(select(Rating.external_id).where(Rating.is_current)).all() == ["f1"]
    assert take_back(db, project, "shop", "f1")
    assert db.scalar(select(func.count()).select_from(Rating).where(Rating.is_current)) == 0
