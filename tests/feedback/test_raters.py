"""The raters page, its tests and decisions, against hand-worked figures and simulated raters."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from math import comb
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.core.errors import InvalidError
from app.feedback.queue_fill import default_queue
from app.feedback.raters import PER_PAGE, RaterFigures, figures, list_raters, read_cursor, share_of, write_cursor
from app.feedback.raters_bursts import binomial_tail, bursts, poisson_tail
from app.feedback.raters_flags import RUN_ALARM, flags, longest_run, run_bound
from app.models import AnnotationSlot, AuditEntry, GoldItem, RaterSetting, Rating, Role

SignIn = Callable[..., TestClient]


def test_peers_on_the_same_completions_by_hand(db: Session, factory: Any) -> None:
    project = factory.project()
    for number in range(40):  # a: up always; b: up on 30; c: up on 20
        completion = factory.completion(project, f"A{number}", f"Q{number}?")
        for rater, value in (("a", True), ("b", number < 30), ("c", number < 20)):
            factory.rating(completion, value, rater)
    a, b = figures(db, project, [("import", "a"), ("import", "b")])
    assert (a.ratings, a.ups, a.peers_on) == (40, 40, "items")
    assert a.against_peers is not None
    assert a.against_peers.value == pytest.approx(1 - (20 * 1 + 10 * 0.5 + 10 * 0) / 40)
    assert a.agreement is not None
    assert a.agreement.value == pytest.approx((20 + 5) / 40)
    assert b.agreement is not None
    assert b.agreement.value == pytest.approx((20 * 1 + 10 * 0.5 + 10 * 0.5) / 40)
    assert a.agreement.low < a.agreement.value < a.agreement.high


def test_peers_of_the_same_categories_where_nothing_is_shared(db: Session, factory: Any) -> None:
    project = factory.project()
    for number in range(40):
        category = "easy" if number % 2 else "hard"
        for rater, value in (("a", True), ("b", category == "easy")):
            completion = factory.completion(project, f"{rater}{number}", f"{rater} {number}?", category)
            factory.rating(completion, value, rater)
    for number in range(10):  # the strict one judges the hard category only
        factory.rating(factory.completion(project, f"c{number}", f"c {number}?", "hard"), False, "c")
    (c,) = figures(db, project, [("import", "c")])
    assert c.peers_on == "categories"
    assert c.expected == pytest.approx(0.5)  # a: 20 up, b: 20 down, in that category
    assert c.against_peers is not None
    assert c.against_peers.value == pytest.approx(-0.5)
    assert c.agreement is None


def test_wilson() -> None:
    found = share_of(8, 10)  # the textbook figures of Wilson's interval for 8 of 10
    assert [found.low, found.high] == pytest.approx([0.4902, 0.9433], abs=5e-4)
    assert share_of(0, 0).n == 0


def rater(verdicts: str = "", **more: Any) -> RaterFigures:
    n, ups = len(verdicts) or 1, verdicts.count("1")
    values = {"expected": 0.5, "against_peers": None, "agreement": None, "peers_on": "items"} | more
    return RaterFigures("s", "r", "R", n, ups, share_of(ups, n), verdicts=verdicts, **values)


def words(item: RaterFigures) -> set[str]:
    return {flag.word for flag in flags(item)}


@pytest.mark.parametrize(("n", "length", "share"), [(10, 4, 0.5), (12, 5, 0.7), (11, 3, 0.2), (9, 9, 0.9)])
def test_the_run_bound_bounds_every_sequence(n: int, length: int, share: float) -> None:
    chance = 0.0
    for sequence in product("10", repeat=n):
        if "1" * length in "".join(sequence):
            ups = sequence.count("1")
            chance += share**ups * (1 - share) ** (n - ups)
    assert chance <= run_bound(length, n, share) + 1e-12


def test_straight_lining_false_alarms_are_rare_and_liners_are_found() -> None:
    draw = random.Random(5)
    honest = ["".join("1" if draw.random() < 0.7 else "0" for _ in range(400)) for _ in range(2000)]
    alarms = sum("straight-lining" in words(rater(verdicts)) for verdicts in honest)
    assert alarms <= 8  # 0.1 % of 2,000 is 2 at most, by a bound that is not tight
    assert longest_run("0011101") == (3, "1")
    assert longest_run("") == (0, "")
    assert "straight-lining" in words(rater("1" * 60))
    assert "straight-lining" in words(rater("10" * 50 + "0" * 40))
    assert "straight-lining" not in words(rater("1" * 60, expected=0.98))
    assert "straight-lining" not in words(rater("1" * 60, expected=None))
    assert RUN_ALARM == 0.001


def test_too_fast_gold_and_peer_flags() -> None:
    peers = list(range(2000, 12000, 50))
    assert words(rater(times_ms=[900] * 30, peer_times_ms=peers)) == {"too fast"}
    assert words(rater(times_ms=[900] * 14 + [5000] * 16, peer_times_ms=peers)) == set()
    assert words(rater(times_ms=[900] * 19, peer_times_ms=peers)) == set()
    assert words(rater(gold=share_of(3, 12))) == {"disagrees with gold"}
    assert words(rater(gold=share_of(9, 12))) == set()
    assert words(rater(against_peers=share_of(90, 100))) == {"differs from peers"}


def test_tails_against_exact_sums() -> None:
    assert binomial_tail(8, 10, 0.5) == pytest.approx(sum(comb(10, k) for k in (8, 9, 10)) / 1024)
    assert poisson_tail(3, 1.0) == pytest.approx(1 - 2.5 / 2.718281828459045)
    assert poisson_tail(1, 5.0) == 1.0


def test_a_burst_of_new_raters_on_one_side(db: Session, factory: Any) -> None:
    project = factory.project()
    completion = [factory.completion(project, f"A{n}", f"Q{n}?") for n in range(60)]
    for hours in range(5, 100, 3):  # a usual day: a few ratings an hour, mostly up
        for number in range(3):
            row = factory.rating(completion[number], number < 2, f"old{hours}-{number}", "shop")
            row.created_at = utcnow() - timedelta(hours=hours)
    db.flush()
    assert bursts(db, project) == []
    at = (utcnow() - timedelta(hours=2)).replace(minute=10)
    for number in range(40):
        factory.rating(completion[number], False, f"new{number}", "shop").created_at = at
    for number in range(40):  # as many at once in another source, by people who rated before
        for when in (at - timedelta(days=20), at):
            factory.rating(completion[number + (when == at)], False, f"r{number}", "forum").created_at = when
    db.flush()
    (found,) = bursts(db, project)
    assert (found.source, found.ratings, found.same, found.value) == ("shop", 40, 40, False)
    assert len(found.newcomers) == 40
    assert bursts(db, factory.project()) == []


def furnish(db: Session, factory: Any) -> tuple[Any, Any]:
    """A project with two annotators, gold answers and times."""
    project = factory.project()
    queue = default_queue(db, project)
    first, second = (factory.member(project, Role.ANNOTATOR, name) for name in ("Ann One", "Bea Two"))
    for number in range(30):
        completion = factory.completion(project, f"A{number}", f"Q{number}?", "sums")
        gold = factory.add(GoldItem(project_id=project.id, completion_id=completion.id, value=True))
        for place, user in enumerate((first, second)):
            value = number % 3 != 0 or user is second
            row = factory.rating(completion, value, f"user:{user.id}", "annotation")
            common = {"queue_id": queue.id, "completion_id": completion.id, "done_by": user.id, "done_at": utcnow()}
            factory.add(AnnotationSlot(**common, number=place, rating_id=row.id, took_ms=4000 + 100 * number))
            if number < 10:
                factory.add(
                    AnnotationSlot(**common, number=place, gold_id=gold.id, gold_for=user.id, gold_answer=number > 2)
                )
    db.flush()
    return project, first


def test_the_page_and_a_raters_own(db: Session, factory: Any, sign_in: SignIn) -> None:
    project, annotator = furnish(db, factory)
    (item,) = figures(db, project, [("annotation", f"user:{annotator.id}"), ("annotation", "nobody")])
    assert item.gold is not None
    assert (item.gold.value, item.gold.n) == (0.7, 10)
    assert item.seconds == pytest.approx(5.45)
    browser = sign_in(factory.member(project, Role.LEAD))
    page = browser.get(f"/p/{project.slug}/raters")
    assert page.status_code == 200
    assert "Ann One" in page.text
    assert "Bea Two" in page.text
    assert "Measures of agreement" in page.text
    one = browser.get(f"/p/{project.slug}/raters/one", params={"source": "annotation", "rater": f"user:{annotator.id}"})
    assert one.status_code == 200
    assert "Weight in labels" in one.text
    for bad in ("nobody", "\x00", "user:99999999999"):
        assert (
            browser.get(f"/p/{project.slug}/raters/one", params={"source": "annotation", "rater": bad}).status_code
            == 404
        )


def test_agreement_as_csv(db: Session, factory: Any, sign_in: SignIn) -> None:
    project, _ = furnish(db, factory)
    default_queue(db, project).name = "=cmd()"
    browser = sign_in(factory.member(project, Role.LEAD))
    answer = browser.get(f"/p/{project.slug}/raters/agreement.csv")
    rows = list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))
    by_scope = {(row["scope"], row["measure"]): row for row in rows}
    assert float(by_scope["project", "Percent agreement"]["value"]) == pytest.approx(20 / 30, abs=1e-6)
    assert by_scope["queue", "Gwet AC1"]["name"] == "'=cmd()"
    assert by_scope["pair", "Cohen kappa"]["items"] == "30"
    assert float(by_scope["pair", "Cohen kappa"]["value"]) == pytest.approx(0)  # the second always says up


def test_a_lead_decides_a_weight(db: Session, factory: Any, sign_in: SignIn) -> None:
    project, annotator = furnish(db, factory)
    lead = factory.member(project, Role.LEAD)
    browser = sign_in(lead)
    address, form = f"/p/{project.slug}/raters/weight", {"source": "annotation", "rater": f"user:{annotator.id}"}
    assert browser.post(address, data=form | {"weight": "0", "reason": ""}).status_code == 422
    assert browser.post(address, data=form | {"weight": "120", "reason": "x"}).status_code == 422
    assert (
        browser.post(address, data={"source": "annotation", "rater": "who", "weight": "5", "reason": "x"}).status_code
        == 404
    )
    assert db.scalar(select(func.count()).select_from(RaterSetting)) == 0
    for weight in ("25", "25", "0"):
        answer = browser.post(address, data=form | {"weight": weight, "reason": "Answers without reading."})
        assert answer.status_code == 303
    setting = db.scalars(select(RaterSetting)).one()
    db.refresh(setting)
    assert (setting.weight, setting.decided_by) == (0, lead.id)
    entries = db.scalars(select(AuditEntry).where(AuditEntry.action == "rater.weighed").order_by(AuditEntry.id)).all()
    assert [(entry.details["before"], entry.details["after"]) for entry in entries] == [(1, 0.25), (0.25, 0)]
    assert "left out" in browser.get(f"/p/{project.slug}/raters").text


def test_who_may(db: Session, factory: Any, sign_in: SignIn) -> None:
    project, other = factory.project(), factory.project()
    for role, status in ((Role.ANNOTATOR, 403), (Role.VIEWER, 403), (Role.LEAD, 200)):
        browser = sign_in(factory.member(project, role))
        for path in ("raters", "adjudicate", "raters/agreement.csv"):
            assert browser.get(f"/p/{project.slug}/{path}").status_code == status
            assert browser.get(f"/p/{other.slug}/{path}").status_code == 404


def test_keyset_pages_show_everybody_once(db: Session, factory: Any) -> None:
    project = factory.project()
    completions = [factory.completion(project, f"A{n}", f"Q{n}?") for n in range(3)]
    for number in range(PER_PAGE * 2 + 3):
        for completion in completions[: 1 + number % 3]:
            factory.rating(completion, True, f"r{number:03}", f"s{number % 2}")
    db.execute(update(Rating).where(Rating.rater == "r000").values(is_current=False))
    seen: list[tuple[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = list_raters(db, project, cursor)
        seen += [(item.source, item.rater) for item in page.rows]
        cursor = page.next_cursor
    assert len(seen) == len(set(seen)) == PER_PAGE * 2 + 2
    assert read_cursor(write_cursor(3, "söurce", "r")) == (3, "söurce", "r")
    for bad in ("x", "W10", write_cursor(1, "a\x00", "b"), "é"):
        with pytest.raises(InvalidError):
            read_cursor(bad)
