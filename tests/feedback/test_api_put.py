"""PUT and DELETE of one thumb by its own id, thumbs on outputs that are only named, corrections."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.accounts.keys import create_key
from app.core.db import session_scope
from app.models import Completion, CompletionVotes, PendingFeedback, Project, Rating

OUTPUT = {"prompt": "How long?", "completion": "Three days.", "external_id": "msg-1", "model": "m1"}
DOWN = {"completion_id": "msg-1", "rater": "u1", "up": False}


@pytest.fixture
def api(client, factory):
    project = factory.project()
    client.headers["Authorization"] = f"Bearer {factory.api_key(project)}"
    client.project = project
    return client


@pytest.fixture
def output(api) -> int:
    found = api.post("/api/v1/completions/batch", json={"items": [OUTPUT]}).json()["items"][0]
    assert found["status"] == "created"
    return int(found["output_id"])


def put(api, name: str, body: dict[str, Any], source: str = "shop"):
    return api.put(f"/api/v1/feedback/{source}/{name}", json=body)


def current(db) -> list[tuple[Any, ...]]:
    query = select(Rating.rater, Rating.value, Rating.external_id).where(Rating.is_current).order_by(Rating.id)
    return [tuple(row) for row in db.execute(query)]


def fields(response, status: int) -> dict[str, str]:
    assert response.status_code == status, response.text
    found: dict[str, str] = response.json()["error"]["fields"]
    return found


def test_created_unchanged_updated_taken_back(api, output, db):
    first = put(api, "fb-1", DOWN | {"comment": "Slow.", "reasons": ["outdated"]})
    assert (first.status_code, first.json()["status"], first.json()["output_id"]) == (201, "created", output)
    again = put(api, "fb-1", DOWN)
    assert (again.status_code, again.json()["status"], again.json()["id"]) == (200, "unchanged", first.json()["id"])
    changed = put(api, "fb-1", DOWN | {"up": True})
    assert (changed.status_code, changed.json()["status"]) == (200, "updated")
    assert current(db) == [("u1", True, "fb-1")]
    for _ in range(2):
        gone = api.delete("/api/v1/feedback/shop/fb-1")
        assert (gone.status_code, gone.content) == (204, b"")
        assert current(db) == []
    assert put(api, "fb-1", DOWN).status_code == 201
    assert api.delete("/api/v1/feedback/shop/never-seen").status_code == 204


def test_what_is_not_said_stays_and_what_is_emptied_goes(api, output, db):
    put(api, "fb-1", DOWN | {"comment": "Slow.", "reasons": ["outdated"]})
    assert put(api, "fb-1", DOWN | {"reasons": []}).json()["status"] == "updated"
    rating = db.scalars(select(Rating).where(Rating.is_current)).one()
    assert (rating.reasons, rating.comment) == ([], "Slow.")


def test_our_id_of_the_output_will_do(api, output):
    assert put(api, "fb-1", {"output_id": output, "rater": "u1", "label": "up"}).status_code == 201
    assert "no such output" in fields(put(api, "fb-2", {"output_id": output + 1, "up": True}), 422)["output_id"]


def test_another_projects_output_is_not_there(api, factory):
    other = factory.completion(factory.project())
    assert "no such output" in fields(put(api, "fb-1", {"output_id": other.id, "up": True}), 422)["output_id"]


def test_ids_that_disagree_are_409(api, output, db):
    api.post("/api/v1/completions/batch", json={"items": [OUTPUT | {"completion": "Two.", "external_id": "msg-2"}]})
    assert put(api, "fb-1", DOWN).status_code == 201
    other_output = fields(put(api, "fb-1", DOWN | {"completion_id": "msg-2"}), 409)
    assert "use one id per feedback" in other_output["external_id"]
    assert "use one id per feedback" in fields(put(api, "fb-1", DOWN | {"rater": "u2"}), 409)["external_id"]
    assert "has the id fb-1" in fields(put(api, "fb-2", DOWN | {"up": True}), 409)["external_id"]
    assert "use one id" in fields(put(api, "fb-1", DOWN | {"completion_id": "not-here"}), 409)["external_id"]
    assert current(db) == [("u1", False, "fb-1")]
    api.delete("/api/v1/feedback/shop/fb-1")
    assert put(api, "fb-2", DOWN | {"up": True}).status_code == 201


def test_a_known_id_needs_no_rater(api, output, db):
    put(api, "fb-1", DOWN)
    assert put(api, "fb-1", {"completion_id": "msg-1", "up": True}).json()["status"] == "updated"
    assert current(db) == [("u1", True, "fb-1")]


def test_a_verdict_without_an_id_can_be_given_one(api, output, db):
    assert api.post("/api/v1/feedback", json=DOWN).status_code == 201
    assert put(api, "fb-1", DOWN).json()["status"] == "updated"
    assert current(db) == [("u1", False, "fb-1")]
    assert api.post("/api/v1/feedback", json=DOWN | {"up": True}).json()["status"] == "updated"
    assert current(db) == [("u1", True, "fb-1")], "the id stays with the rater's feedback"


def test_in_a_batch_an_id_that_is_taken_refuses_its_item_only(api, output, db):
    items = [
        DOWN | {"external_id": "fb-1"},
        DOWN | {"external_id": "fb-1", "rater": "u2"},
        DOWN | {"external_id": "fb-3", "rater": "u3"},
        DOWN | {"external_id": "fb-4", "rater": "u3"},
        {"prompt": "New?", "completion": "Yes.", "up": True, "rater": "u4", "external_id": "fb-1"},
    ]
    body = api.post("/api/v1/feedback/batch", json={"items": items}).json()
    assert [item["status"] for item in body["items"]] == ["created", "error", "created", "unchanged", "error"]
    assert "external_id" in body["items"][1]["fields"]
    assert current(db) == [("u1", False, "fb-1"), ("u3", False, "fb-3")]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"completion_id": "msg-1"}, "label"),
        ({"completion_id": "msg-1", "up": "yes"}, "up"),
        ({"completion_id": "msg-1", "up": True, "label": True}, "up"),
        ({"up": True}, "completion_id"),
        ({"up": True, "completion_id": "a", "output_id": 1}, "completion_id"),
        ({"up": True, "output_id": 0}, "output_id"),
        ({"up": True, "completion_id": "msg-1", "external_id": "other"}, "external_id"),
        ({"up": True, "completion_id": "msg-1", "prompt": "x"}, "prompt"),
        ({"up": True, "completion_id": "msg-1", "comment": "x" * 2001}, "comment"),
        ([], "item"),
    ],
)
def test_bad_bodies_are_named(api, output, body, field):
    assert field in fields(put(api, "fb-1", body), 422)


def test_a_key_writes_to_its_own_source(api, output):
    for method in ("PUT", "DELETE"):
        refused = api.request(method, "/api/v1/feedback/annotation/fb-1", json=DOWN)
        assert "shop" in fields(refused, 403)["source"]
    refused = api.put("/api/v1/feedback/shop/fb-1", json=DOWN, headers={"Authorization": "Bearer kto_x"})
    assert refused.status_code == 401
    long = put(api, "x" * 201, DOWN)
    assert long.status_code == 422
    assert api.delete("/api/v1/feedback/shop/%00").status_code == 422


def test_an_unknown_output_waits_and_is_joined(api, db):
    waiting = put(api, "fb-1", DOWN | {"comment": "Slow."})
    assert (waiting.status_code, waiting.json()["status"], waiting.json()["id"]) == (202, "pending", None)
    assert put(api, "fb-1", DOWN | {"reasons": ["outdated"]}).status_code == 202
    assert db.scalar(select(func.count()).select_from(PendingFeedback)) == 1
    assert current(db) == []
    api.post("/api/v1/completions/batch", json=[OUTPUT])
    assert current(db) == [("u1", False, "fb-1")]
    rating = db.scalars(select(Rating).where(Rating.is_current)).one()
    assert (rating.comment, rating.reasons) == ("Slow.", ["outdated"])
    assert db.scalar(select(func.count()).select_from(PendingFeedback)) == 0
    votes = db.execute(select(CompletionVotes.ups, CompletionVotes.downs)).one()
    assert tuple(votes) == (0, 1)


def test_waiting_feedback_has_both_unique_keys_too(api, db):
    put(api, "fb-1", DOWN)
    assert "use one id" in fields(put(api, "fb-1", DOWN | {"completion_id": "msg-2"}), 409)["external_id"]
    assert "has the id fb-1" in fields(put(api, "fb-2", DOWN), 409)["external_id"]
    put(api, "fb-1", DOWN | {"up": True})
    assert db.scalar(select(PendingFeedback.item["value"].as_boolean())) is True
    assert api.delete("/api/v1/feedback/shop/fb-1").status_code == 204
    assert db.scalar(select(func.count()).select_from(PendingFeedback)) == 0
    api.post("/api/v1/completions/batch", json=[OUTPUT])
    assert current(db) == []


def test_an_older_waiting_verdict_never_replaces_a_newer_one(api, db):
    put(api, "fb-1", DOWN | {"occurred_at": "2026-01-02T00:00:00Z"})
    put(api, "fb-1", DOWN | {"up": True, "occurred_at": "2026-01-01T23:00:00-00:00"})
    api.post("/api/v1/feedback", json={"prompt": "How long?", "completion": "Three days.", "completion_id": "msg-1"})
    assert current(db) == [("u1", False, "fb-1")]


def test_a_correction_rates_both_and_goes_with_the_thumb(api, output, db):
    sent = put(api, "fb-1", DOWN | {"correction": "Two weeks."})
    assert sent.status_code == 201
    edit = db.get_one(Completion, sent.json()["correction_output_id"])
    assert (edit.corrects_id, edit.model, edit.text) == (output, None, "Two weeks.")
    votes = {
        row[0]: row[1:]
        for row in db.execute(select(CompletionVotes.completion_id, CompletionVotes.ups, CompletionVotes.downs))
    }
    assert votes == {output: (0, 1), edit.id: (1, 0)}
    assert current(db) == [("u1", False, "fb-1"), ("u1", True, None)]
    assert put(api, "fb-1", DOWN | {"correction": "Two weeks."}).json()["status"] == "unchanged"
    assert put(api, "fb-1", DOWN | {"comment": "More."}).json()["status"] == "updated"
    assert len(current(db)) == 2, "the edit stays where the thumb stays"
    assert put(api, "fb-1", DOWN | {"correction": "A month."}).json()["status"] == "updated"
    texts = select(Completion.text).join(Rating, Rating.completion_id == Completion.id).where(Rating.is_current)
    assert set(db.scalars(texts)) == {"Three days.", "A month."}
    put(api, "fb-1", DOWN | {"up": True})
    assert current(db) == [("u1", True, "fb-1")]
    put(api, "fb-1", DOWN | {"correction": "A month."})
    assert len(current(db)) == 2
    api.delete("/api/v1/feedback/shop/fb-1")
    assert current(db) == []


def test_a_correction_alone_says_down(api, output, db):
    thumb = {"completion_id": "msg-1", "rater": "u1", "correction": [{"role": "assistant", "content": "Two weeks."}]}
    assert api.post("/api/v1/feedback", json=thumb).status_code == 201
    assert [row[:2] for row in current(db)] == [("u1", False), ("u1", True)]


def test_a_correction_of_a_good_answer_or_without_a_change_is_refused(api, output, db):
    assert "thumb down" in fields(put(api, "fb-1", DOWN | {"up": True, "correction": "Else."}), 422)["correction"]
    assert "as it was" in fields(put(api, "fb-1", DOWN | {"correction": "Three days."}), 422)["correction"]
    assert current(db) == []


def test_a_correction_may_wait_too(api, db):
    assert put(api, "fb-1", DOWN | {"correction": "Two weeks."}).status_code == 202
    assert put(api, "fb-2", DOWN | {"rater": "u2", "correction": "Three days."}).status_code == 202
    api.post("/api/v1/completions/batch", json=[OUTPUT])
    assert [row[:2] for row in current(db)] == [("u1", False), ("u1", True), ("u2", False)]


@pytest.fixture
def shop(committed_db):
    """A running application with its own commits, a key's headers, one stored output."""
    from app.main import create_app

    with session_scope() as db:
        project = Project(slug="p", name="P", split_salt="s")
        db.add(project)
        db.flush()
        _, token = create_key(db, project, "shop", ["feedback:write"])
    headers = {"Authorization": f"Bearer {token}"}
    with TestClient(create_app(), base_url="http://testserver", headers=headers) as api:
        api.post("/api/v1/completions/batch", json=[OUTPUT, OUTPUT | {"external_id": "msg-2", "completion": "Two."}])
        yield api


def at_once(api, requests: list[tuple[str, dict[str, Any]]]) -> list[int]:
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda each: put(api, *each), requests))
    return sorted(answer.status_code for answer in answers)


def test_the_same_put_at_once_leaves_one_row(shop):
    assert at_once(shop, [("fb-1", DOWN)] * 12) == [200] * 11 + [201]
    with session_scope() as db:
        assert db.scalar(select(func.count()).select_from(Rating)) == 1


def test_opposite_puts_at_once_leave_one_current(shop):
    at_once(shop, [("fb-1", DOWN | {"up": bool(number % 2)}) for number in range(12)])
    with session_scope() as db:
        assert len(current(db)) == 1
        votes = db.execute(
            select(CompletionVotes.ups + CompletionVotes.downs).where(CompletionVotes.ups + CompletionVotes.downs > 0)
        )
        assert votes.scalars().all() == [1]


def test_batches_that_race_for_the_ids_never_fail(shop):
    """Many transactions at once, each of which takes the same ids for other outputs and raters."""

    def send(number: int):
        items = [
            {
                "completion_id": f"msg-{(number + n) % 4 + 1}",
                "rater": f"u{(number * n) % 3}",
                "up": True,
                "external_id": f"fb-{n % 5}",
            }
            for n in range(20)
        ]
        return shop.post("/api/v1/feedback/batch", json=items)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(18)))
    assert {answer.status_code for answer in answers} == {200}
    with session_scope() as db:
        taken = [row[2] for row in current(db) if row[2]]
        waiting = db.scalars(select(PendingFeedback.external_id)).all()
        assert len(taken) == len(set(taken))
        assert len(waiting) == len(set(waiting))
