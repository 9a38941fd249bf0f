"""Monitoring on real rows: what the page says, what opens an incident, who may close one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.models import Completion, Incident, Project, Rating, Role
from app.registry import incidents, monitoring
from app.registry.monitoring import watch


def votes(factory: Any, project: Project, model: str, *, down: int, up: int, days_ago: float, text: str = "Answer {n}.") -> list[Completion]:  # fmt: skip
    """Alternating as evenly as may be, a minute apart."""
    started = utcnow() - timedelta(days=days_ago)
    made, total = [], down + up
    for n in range(total):
        completion = factory.completion(project, text=text.format(n=n), prompt=f"{model} question {n}?", category=("a", "b")[n % 2], model=model)  # fmt: skip
        is_down = (n + 1) * down // total > n * down // total
        at = started + timedelta(minutes=n)
        factory.add(Rating(project_id=project.id, completion_id=completion.id, source="shop", rater=f"user-{n}", value=not is_down, occurred_at=at))  # fmt: skip
        made.append(completion)
    return made


@pytest.fixture
def shop(factory: Any, sign_in: Any) -> Any:
    project = factory.project()
    return project, sign_in(factory.member(project, Role.LEAD)), f"/p/{project.slug}/monitoring"


def test_without_votes_the_page_says_what_it_needs(shop: Any) -> None:
    _, client, root = shop
    page = client.get(root)
    assert page.status_code == 200
    assert "No votes yet" in page.text
    assert "No incidents." in page.text


def test_a_worse_model_opens_one_incident(db: Session, factory: Any, shop: Any) -> None:
    project, client, root = shop
    votes(factory, project, "v1", down=12, up=108, days_ago=20)
    votes(factory, project, "v2", down=40, up=80, days_ago=2)
    found = watch(db, project)
    assert (found.current and found.current.model, found.baseline and found.baseline.model) == ("v2", "v1")
    assert found.compared is not None
    assert found.compared.odds_ratio == pytest.approx((40 / 80) / (12 / 108), rel=0.05)
    assert [incidents.check(db, project), incidents.check(db, project)] == [1, 0]
    page = client.get(root).text
    assert "v2 gets more down-votes than v1" in page
    assert "33.3" in page
    incident = db.scalars(select(Incident)).one()
    empty = client.post(f"{root}/incidents/{incident.id}/close", data={"note": " "})
    assert empty.status_code == 422
    assert "Say what was found or done" in empty.text
    assert client.post(f"{root}/incidents/{incident.id}/close", data={"note": "Rolled back."}).status_code == 303
    db.refresh(incident)
    assert (incident.status, incident.note) == ("closed", "Rolled back.")
    assert incidents.check(db, project) == 0, "the chart starts again after the incident was closed"


def test_the_same_rate_opens_none(db: Session, factory: Any, shop: Any) -> None:
    project, client, root = shop
    votes(factory, project, "v1", down=12, up=108, days_ago=20)
    votes(factory, project, "v2", down=12, up=108, days_ago=2)
    assert incidents.check(db, project) == 0
    assert "No alarm: the down-votes of v2 stay within what v1 would give." in client.get(root).text
    assert "odds ratio" in client.get(f"{root}?model=v1&baseline=v2").text
    assert client.get(f"{root}?model=nothing&baseline=nothing").status_code == 200


def test_repeated_and_looping_answers_are_seen(db: Session, factory: Any, shop: Any) -> None:
    project, client, root = shop
    votes(factory, project, "v1", down=12, up=108, days_ago=20)
    votes(factory, project, "v2", down=12, up=108, days_ago=2, text="yes yes yes yes yes yes yes yes yes yes yes yes")
    assert incidents.check(db, project) == 2
    kinds = {row.kind: row for row in db.scalars(select(Incident))}
    assert set(kinds) == {"loops", "duplicates"}
    assert kinds["loops"].title == "Loops of v2: 120 of 120 answers, before 0 of 120"
    assert f"/completions/{kinds['loops'].data['completions'][0]}" in client.get(root).text


def test_personal_data_that_nobody_asked_about_is_seen(db: Session, factory: Any, shop: Any) -> None:
    project, client, root = shop
    votes(factory, project, "v1", down=12, up=108, days_ago=20)
    votes(factory, project, "v2", down=12, up=108, days_ago=2)
    told = "Write to jo.smith@mail.example.com about it."
    given = [factory.completion(project, text=told, prompt=f"Whom do I ask? {n}", model="v2") for n in range(16)]
    for number in range(20):  # who gives an address is given it back
        factory.completion(project, text=told, prompt=f"I am jo.smith@mail.example.com {number}", model="v2")
    found = monitoring.sentinels(db, project, "v2")["pii"]
    assert (found.hits, found.n) == (16, 156)
    assert found.examples == tuple(row.id for row in reversed(given[-5:]))
    incidents.check(db, project)
    row = db.scalars(select(Incident).where(Incident.kind == "pii")).one()
    assert row.title == "Personal data of v2: 16 of 156 answers, before 0 of 120"
    page = client.get(root).text
    assert "Personal data" in page
    assert "jo.smith" not in page


def test_by_hand_and_by_role(db: Session, factory: Any, sign_in: Any, shop: Any) -> None:
    project, client, root = shop
    assert client.post(f"{root}/incidents", data={"title": ""}).status_code == 422
    assert client.post(f"{root}/incidents", data={"title": "A customer called."}).status_code == 303
    again = client.post(f"{root}/incidents", data={"title": "A customer called."})
    assert again.status_code == 422
    assert "is open already" in again.text
    incident = db.scalars(select(Incident)).one()
    viewer = sign_in(factory.member(project, Role.VIEWER))
    assert "A customer called." in viewer.get(root).text
    assert viewer.post(f"{root}/incidents/{incident.id}/close", data={"note": "x"}).status_code == 403
    other = factory.project()
    stranger = sign_in(factory.member(other, Role.LEAD))
    assert stranger.get(root).status_code == 404
    assert stranger.post(f"/p/{other.slug}/monitoring/incidents/{incident.id}/close", data={"note": "x"}).status_code == 404  # fmt: skip
