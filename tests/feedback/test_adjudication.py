from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.labels import KEPT, judged, verdicts
from app.feedback.adjudication import next_split, num_open
from app.models import AuditEntry, Rating, Role

SignIn = Callable[..., TestClient]


def split(factory: Any, project: Any, text: str) -> Any:
    completion = factory.completion(project, text, f"{text}?")
    row = factory.rating(completion, True, "a")
    row.comment, row.reasons = "Right as it is", ["tone"]
    factory.rating(completion, False, "b").comment = "<script>alert(1)</script>"
    return completion


def test_decide_skip_undo(db: Session, factory: Any, sign_in: SignIn) -> None:
    project = factory.project()
    first, second = split(factory, project, "One"), split(factory, project, "Two")
    factory.rating(factory.completion(project, "Agreed"), True, "a")
    split(factory, factory.project(), "Elsewhere")
    db.flush()
    lead = factory.member(project, Role.LEAD)
    browser = sign_in(lead)
    base = f"/p/{project.slug}/adjudicate"
    page = browser.get(base).text
    assert f'data-completion="{first.id}"' in page
    assert "Right as it is" in page
    assert "&lt;script&gt;" in page
    assert "<script>alert" not in page
    skipped = browser.post(f"{base}/verdict", data={"completion_id": first.id, "value": "skip"})
    assert f'data-completion="{second.id}"' in browser.get(skipped.headers["location"]).text
    decided = browser.post(f"{base}/verdict", data={"completion_id": second.id, "value": "down", "comment": "Too long"})
    assert decided.status_code == 303
    assert "Show the skipped ones" in browser.get(decided.headers["location"]).text
    rating = db.scalars(select(Rating).where(Rating.source == "adjudication")).one()
    assert (rating.completion_id, rating.value, rating.rater, rating.comment) == (
        second.id,
        False,
        f"user:{lead.id}",
        "Too long",
    )
    labels = {
        row.completion_id: (row.label, row.status) for row in db.execute(select(judged(verdicts(project), project)))
    }
    assert labels[second.id] == (False, KEPT)
    assert labels[first.id] == (None, "tie")
    assert num_open(db, project) == 1
    undone = browser.post(f"{base}/undo")
    assert f'data-completion="{second.id}"' in browser.get(undone.headers["location"]).text
    assert num_open(db, project) == 2
    assert "There is nothing to undo." in browser.get(browser.post(f"{base}/undo").headers["location"]).text
    actions = db.scalars(
        select(AuditEntry.action).where(AuditEntry.project_id == project.id).order_by(AuditEntry.id)
    ).all()
    assert actions == ["completion.adjudicated", "completion.adjudication_undone"]


def test_twice_counts_once_and_strangers_are_refused(db: Session, factory: Any, sign_in: SignIn) -> None:
    project, other = factory.project(), factory.project()
    mine, foreign = split(factory, project, "Mine"), split(factory, other, "Foreign")
    browser = sign_in(factory.member(project, Role.LEAD))
    base = f"/p/{project.slug}/adjudicate"
    for _ in range(2):
        assert browser.post(f"{base}/verdict", data={"completion_id": mine.id, "value": "up"}).status_code == 303
    assert len(db.scalars(select(Rating).where(Rating.source == "adjudication")).all()) == 1
    assert browser.post(f"{base}/verdict", data={"completion_id": foreign.id, "value": "up"}).status_code == 404
    assert browser.post(f"{base}/verdict", data={"completion_id": mine.id, "value": "maybe"}).status_code == 422
    assert (
        browser.post(
            f"{base}/verdict", data={"completion_id": mine.id, "value": "up", "comment": "x" * 2001}
        ).status_code
        == 422
    )
    assert browser.get(f"{base}?after=-1").status_code == 422
    assert next_split(db, other) is not None
