from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from app.home.queries import Count, annotating_now, label_balance, open_slots, ratings_per_day
from app.home.service import home_of
from app.models import AnnotationQueue, AnnotationSlot, Role
from app.registry.service import make_version, promote
from tests.evaluations.support import checkpoint_of, estimate, evaluation_in, heldout, run_in

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def everything(_permission: str) -> bool:
    return True


def titles(db: Session, project: Any, can: Any = everything) -> list[str]:
    return [step.title for step in home_of(db, project, can, datetime.now(UTC)).steps]


def labelled(factory: Any, project: Any, desirable: int, undesirable: int) -> None:
    for index in range(desirable + undesirable):
        completion = factory.completion(project, prompt=f"question {index}?")
        factory.rating(completion, value=index < desirable)


def test_days_are_counted_by_class_in_utc(db: Session, factory: Any) -> None:
    project = factory.project()
    for hours, value in ((1, True), (2, False), (13, True), (24 * 29, True), (24 * 31, True)):
        rating = factory.rating(factory.completion(project), value=value)
        rating.created_at = NOW - timedelta(hours=hours)
    gone = factory.rating(factory.completion(project))
    gone.created_at, gone.is_current = NOW, False
    other = factory.rating(factory.completion(factory.project()))
    other.created_at = NOW
    db.flush()
    days = ratings_per_day(db, project, NOW)
    assert len(days) == 30
    assert (days[-1].day.isoformat(), days[-1].desirable, days[-1].undesirable) == ("2026-03-10", 1, 1)
    assert (days[-2].desirable, days[-2].undesirable) == (1, 0)
    assert (days[0].day.isoformat(), days[0].desirable) == ("2026-02-09", 1)
    assert sum(day.desirable + day.undesirable for day in days) == 4


def test_labels_are_majorities_and_ties_count_for_nobody(db: Session, factory: Any) -> None:
    project = factory.project()
    for votes in ((True, True, False), (True, False), (False,)):
        completion = factory.completion(project)
        for index, value in enumerate(votes):
            factory.rating(completion, value=value, rater=f"r{index}")
    labels = label_balance(db, project)
    assert (labels.desirable, labels.undesirable, labels.is_whole) == (1, 1, True)


def test_who_annotates_now_and_how_much_waits(db: Session, factory: Any) -> None:
    project = factory.project()
    busy, gone = factory.member(project, name="Priya Nair"), factory.member(project, name="Jo Lind")
    for user, minutes in ((busy, 1), (busy, 50), (gone, 20)):
        rating = factory.rating(factory.completion(project), rater=f"user:{user.id}", source="annotation")
        rating.created_at = NOW - timedelta(minutes=minutes)
    queue = factory.add(AnnotationQueue(project_id=project.id, slug="main", name="Main"))
    for done in (None, None, NOW):
        factory.add(AnnotationSlot(queue_id=queue.id, completion_id=factory.completion(project).id, done_at=done))
    db.flush()
    assert [(item.user.name, item.per_hour) for item in annotating_now(db, project, NOW)] == [("Priya Nair", 2)]
    assert open_slots(db, project).value == 2
    assert str(Count(10_001)) == "10,000+"
    assert str(Count(1_284)) == "1,284"


def test_next_follows_the_loop(db: Session, factory: Any, tmp_path: Path) -> None:
    project = factory.project()
    assert titles(db, project) == ["Bring in feedback"]
    labelled(factory, project, 6, 0)
    assert titles(db, project) == ["Collect undesirable labels"]
    labelled(factory, project, 0, 6)
    assert titles(db, project) == ["Freeze a snapshot"]
    run = run_in(factory, project)
    assert "Launch a run" not in titles(db, project), "the newest snapshot has been trained on"
    checkpoint = checkpoint_of(factory, run)
    evaluation_in(factory, run, checkpoint, tmp_path)
    assert titles(db, project) == [f"Judge {run.name}"]
    make_version(db, project=project, checkpoint_id=checkpoint.id, user=None)
    assert titles(db, project) == ["Decide on v1"]
    promote(db, project=project, number=1, user=None)
    assert titles(db, project) == []
    queued = run_in(factory, project, status="queued", step=0)
    assert titles(db, project) == ["Start a worker"]
    queued.status, queued.failure_reason = "failed", "out_of_memory"
    db.flush()
    assert titles(db, project) == [f"Look at {queued.name}"]
    assert titles(db, project, lambda _permission: False) == []


def test_a_new_project_shows_the_first_steps(factory: Any, sign_in: Any) -> None:
    project = factory.project("Bakery chat")
    client = sign_in(factory.member(project, Role.OWNER))
    page = client.get(f"/p/{project.slug}/")
    assert page.status_code == 200
    for words in (
        "Bakery chat",
        "Bring in feedback",
        "Freeze a snapshot, launch a run",
        "Promote a version",
        "No runs yet",
    ):
        assert words in page.text


def test_a_project_at_work_shows_all_of_the_loop(db: Session, factory: Any, sign_in: Any, tmp_path: Path) -> None:
    project = factory.project()
    client = sign_in(factory.member(project, Role.LEAD))
    labelled(factory, project, 3, 1)
    run = run_in(factory, project)
    checkpoint = checkpoint_of(factory, run)
    evaluation_in(factory, run, checkpoint, tmp_path, heldout=heldout(auc_within_prompt=estimate(0.4, 0.3, 0.45)))
    make_version(db, project=project, checkpoint_id=checkpoint.id, user=None)
    promote(db, project=project, number=1, user=None, reason="a test")
    active = run_in(factory, project, status="running", step=12, total_steps=40)
    page = client.get(f"/p/{project.slug}/").text
    assert "ratings today" in page
    assert "30" in page
    assert f"of {active.name}" in page
    assert "1 of 6" in page
    assert "1 of 6 gates fails" in page
    assert "in production" in page
    assert "0.400" in page


def test_annotators_see_no_link_that_they_may_not_follow(factory: Any, sign_in: Any) -> None:
    project = factory.project()
    run_in(factory, project)
    page = sign_in(factory.member(project, Role.ANNOTATOR)).get(f"/p/{project.slug}/").text
    for part in ("/runs", "/versions", "/evaluations", "/sources", "/readiness"):
        assert f'href="/p/{project.slug}{part}' not in page


def test_the_number_of_queries_does_not_grow(db: Session, factory: Any, tmp_path: Path) -> None:
    project = factory.project()
    statements: list[str] = []

    def count_queries() -> int:
        statements.clear()
        home_of(db, project, everything, datetime.now(UTC))
        return len(statements)

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    connection = db.connection()
    event.listen(connection, "before_cursor_execute", note)
    try:
        counted = []
        for _ in range(2):
            for _ in range(3):
                run = run_in(factory, project)
                checkpoint = checkpoint_of(factory, run)
                evaluation_in(factory, run, checkpoint, tmp_path)
                make_version(db, project=project, checkpoint_id=checkpoint.id, user=None)
                labelled(factory, project, 3, 3)
            db.expire_all()
            db.refresh(project)
            counted.append(count_queries())
    finally:
        event.remove(connection, "before_cursor_execute", note)
    assert counted[0] == counted[1] <= 20


def test_the_first_page_leads_on(factory: Any, sign_in: Any, client: Any) -> None:
    assert client.get("/").headers["location"].startswith("/login")
    project = factory.project()
    user = factory.member(project)
    assert sign_in(user).get("/").headers["location"] == f"/p/{project.slug}/"
    stranger = factory.user()
    assert sign_in(stranger).get("/").headers["location"] == "/projects"
    assert sign_in(stranger).get(f"/p/{project.slug}/").status_code == 404
