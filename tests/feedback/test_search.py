"""Filters and words of the completions list."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.feedback import browse, search
from app.feedback.filters import Filter, filtered_ids
from app.feedback.ratings import rate, retract
from app.models import Completion, CompletionVotes, Project


def texts(db: Session, project: Project, **wanted: str) -> list[str]:
    """What the list shows, and what the filter as one condition finds, must be the same."""
    listed = [line.completion.text for line in browse.list_completions(db, project, Filter(**wanted), None).rows]
    ids = db.scalars(filtered_ids(project, Filter(**wanted))).all()
    assert sorted(listed) == sorted(db.scalars(select(Completion.text).where(Completion.id.in_(ids))))
    assert browse.count_up_to(db, project, Filter(**wanted), 1000) == len(listed)
    return listed


@pytest.fixture(params=[2500, 0], ids=["few", "many"])
def project(request: pytest.FixtureRequest, db: Session, factory: Any, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Both ways of asking: all ids first, and the walk."""
    monkeypatch.setattr(browse, "MANY", request.param)
    project: Project = factory.project()
    for text, category, model in (
        ("The parcel is late", "post", "one"),
        ("Refunds take a week", "money", "one"),
        ("A refund needs the parcel back", "money", "two"),
    ):
        factory.completion(project, text=text, category=category, model=model)
    other = factory.project()
    factory.completion(other, text="The parcel of somebody else", category="post", model="one")
    while search.index_some(db):
        pass
    return project


def test_words(db: Session, project: Project) -> None:
    assert texts(db, project, text="parcel") == ["A refund needs the parcel back", "The parcel is late"]
    assert texts(db, project, text="PARCEL refund") == ["A refund needs the parcel back"]
    assert texts(db, project, text="refun") == ["A refund needs the parcel back", "Refunds take a week"]
    assert texts(db, project, text="refun parcel") == [], "only the last word may be a beginning"
    assert texts(db, project, text="parcel' | 'week & :* !") == [], "operators are no part of a query"


def test_category_model_and_both(db: Session, project: Project) -> None:
    assert texts(db, project, category="money", model="two") == ["A refund needs the parcel back"]
    assert texts(db, project, category="post") == ["The parcel is late"]
    assert texts(db, project, category="nothing") == []


def test_states_and_sources_follow_the_ratings(db: Session, project: Project) -> None:
    ids = dict(db.execute(select(Completion.text, Completion.id).where(Completion.project_id == project.id)).all())
    late, week = ids["The parcel is late"], ids["Refunds take a week"]
    _, first = rate(db, project.id, late, source="shop", rater="a", value=True)
    rate(db, project.id, week, source="shop", rater="a", value=False)
    assert texts(db, project, state="desirable") == ["The parcel is late"]
    assert texts(db, project, state="undesirable", source="shop") == ["Refunds take a week"]
    assert texts(db, project, state="unrated") == ["A refund needs the parcel back"]
    rate(db, project.id, late, source="annotation", rater="b", value=False)
    assert texts(db, project, state="tied") == texts(db, project, state="split") == ["The parcel is late"]
    assert texts(db, project, source="annotation") == ["The parcel is late"]
    retract(db, project.id, first)
    assert texts(db, project, state="undesirable") == ["Refunds take a week", "The parcel is late"]
    assert texts(db, project, source="shop") == ["Refunds take a week"]
    assert browse.choices(db, project) == (["money", "post"], ["one", "two"], ["annotation", "shop"])


def test_new_completions_are_found_before_they_are_indexed(db: Session, factory: Any) -> None:
    project = factory.project()
    factory.completion(project, text="A brand-new answer")
    assert [line.completion.text for line in browse.list_completions(db, project, Filter(text="brand"), None).rows]
    assert search.index_some(db) >= 1
    assert search.index_some(db) == 0
    assert texts(db, project, text="brand new") == ["A brand-new answer"]


def test_the_sweep_finds_what_lies_behind(db: Session, factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import publishes ids that are older than what has been indexed meanwhile."""
    project = factory.project()
    old = factory.completion(project, text="An older number")
    monkeypatch.setattr(search, "LOOK_BACK", 0)
    newer = factory.completion(project, text="A newer number")
    db.execute(search._INDEX, {"after": newer.id - 1, "batch": 10})
    assert search.index_some(db) == 0
    assert search.index_some(db, whole=True) >= 1
    assert {line.completion.id for line in browse.list_completions(db, project, Filter(text="number"), None).rows} == {
        old.id,
        newer.id,
    }


def test_counts_are_kept_by_the_database(db: Session, factory: Any) -> None:
    completion = factory.completion(factory.project())
    rate(db, completion.project_id, completion.id, source="shop", rater="a", value=True)
    rate(db, completion.project_id, completion.id, source="shop", rater="a", value=False)
    rate(db, completion.project_id, completion.id, source="shop", rater="b", value=False)
    votes = db.get_one(CompletionVotes, completion.id)
    db.refresh(votes)
    assert (votes.ups, votes.downs, votes.state) == (0, 2, 2)
    db.delete(completion)
    db.flush()
    db.expire_all()
    assert db.get(CompletionVotes, completion.id) is None


def test_a_filter_comes_back_from_its_record() -> None:
    wanted = Filter(category="a", state="split", source="shop")
    assert Filter.from_dict(wanted.to_dict()) == wanted
    assert Filter.from_dict({"category": 5, "unknown": "x", "text": "word"}) == Filter(text="word")
