"""Label rules by hand-worked votes, against a second implementation in plain Python, and their place in snapshots."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from math import log
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import InvalidError
from app.datasets.labels import KEPT, judged, verdicts
from app.datasets.reliability import HIGHEST, SHRINK, reliability
from app.datasets.rules import RULE, LabelRule, load_rule, parse_rule, save_rule
from app.datasets.service import freeze
from app.feedback.queue_fill import default_queue
from app.models import AnnotationSlot, AuditEntry, Completion, GoldItem, Project, RaterSetting, Role
from tests.datasets.helpers import insert_items, simple_items


def outcome(db: Session, project: Project, rule: LabelRule | None = None) -> dict[int, tuple[bool | None, str]]:
    rows = judged(verdicts(project, rule), project, rule)
    return {row.completion_id: (row.label, row.status) for row in db.execute(select(rows))}


def vote(factory: Any, project: Project, votes: str, source: str = "annotation") -> int:
    """``"++-"``: raters r0 and r1 up, r2 down, on a completion of its own."""
    number = next(factory_numbers)
    completion = factory.completion(project, f"Answer {number}", f"Question {number}?")
    for place, sign in enumerate(votes):
        if sign in "+-":
            factory.rating(completion, sign == "+", f"r{place}", source)
    return completion.id  # type: ignore[no-any-return]


factory_numbers = iter(range(10**9))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, {"+": (True, KEPT), "+-": (None, "tie"), "++-": (True, KEPT), "--+": (False, KEPT), "+++-": (True, KEPT)}),
        ({"votes": "unanimous"}, {"+": (True, KEPT), "++-": (None, "split"), "--": (False, KEPT), "+-": (None, "tie")}),
        ({"min_votes": 2}, {"+": (None, "few"), "++": (True, KEPT), "+-": (None, "tie")}),
        ({"min_share": 0.7}, {"++-": (None, "split"), "+++-": (True, KEPT), "-": (False, KEPT)}),
        ({"min_share": 0.75}, {"+++-": (True, KEPT)}),  # exactly at the limit
    ],
)
def test_clauses_by_hand(db: Session, factory: Any, rule: dict[str, Any], expected: dict[str, Any]) -> None:
    project = factory.project()
    ids = {votes: vote(factory, project, votes) for votes in expected}
    found = outcome(db, project, LabelRule(**rule))
    assert {votes: found[ids[votes]] for votes in expected} == expected


def test_a_lead_weighs_raters(db: Session, factory: Any) -> None:
    project, other = factory.project(), factory.project()
    one, two, three = (vote(factory, project, votes) for votes in ("+-", "--+", "+"))
    same = vote(factory, other, "+-")
    for rater, weight in (("r0", 0.0), ("r1", 0.3)):
        factory.add(RaterSetting(project_id=project.id, source="annotation", rater=rater, weight=weight))
    factory.add(RaterSetting(project_id=project.id, source="shop", rater="r2", weight=0.0))  # another source's r2
    found = outcome(db, project)
    assert found[one] == (False, KEPT)  # r0 is left out
    assert found[two] == (True, KEPT)  # 0.3 down against 1 up
    assert found[three] == (None, "left_out")
    assert outcome(db, other)[same] == (None, "tie")


def test_adjudication_decides_and_the_newest_counts(db: Session, factory: Any) -> None:
    project = factory.project()
    tied, clear = vote(factory, project, "+-"), vote(factory, project, "+++")
    for completion_id, value, who in ((tied, True, "user:1"), (clear, True, "user:1"), (clear, False, "user:2")):
        factory.rating(db.get_one(Completion, completion_id), value, who, "adjudication")
    found = outcome(db, project, LabelRule(votes="unanimous", min_votes=5))
    assert found[tied] == (True, KEPT)
    assert found[clear] == (False, KEPT)


def plain_cap(sizes: dict[str, int], shared: int, share: float) -> dict[str, int]:
    """By bisection on T, the number of labels left: a second way to the same figures."""
    total = shared + sum(sizes.values())
    low, high = 0.0, float(total)
    for _ in range(200):
        middle = (low + high) / 2
        held = shared + sum(min(n, share * middle) for n in sizes.values())
        low, high = (middle, high) if held >= middle - 1e-12 else (low, middle)
    if low < 0.5:
        return sizes
    return {rater: min(n, max(int(share * low + 1e-6), 1)) for rater, n in sizes.items()}


@pytest.mark.parametrize(
    ("sizes", "shared", "share"),
    [
        ({"r0": 30, "r1": 10, "r2": 10, "r3": 5}, 5, 0.3),
        ({"r0": 30, "r1": 25, "r2": 4, "r3": 1}, 10, 0.25),
        ({"r0": 5, "r1": 5, "r2": 5}, 10, 0.3),
        ({"r0": 9, "r1": 9}, 0, 0.3),  # two raters cannot each have less than 30 %: nothing is held back
        ({"r0": 20}, 4, 0.5),
    ],
)
def test_no_rater_alone_decides_more_than_the_cap(
    db: Session, factory: Any, sizes: dict[str, int], shared: int, share: float
) -> None:
    project = factory.project()
    owner: dict[int, str] = {}
    for rater, n in sizes.items():
        for _ in range(n):
            owner[vote(factory, project, " " * int(rater[1:]) + "+")] = rater
    for _ in range(shared):
        vote(factory, project, "++")
    for _ in range(3):
        vote(factory, project, "-")  # the other class has a cap of its own
    found = outcome(db, project, LabelRule(max_rater_share=share))
    kept = Counter(
        owner[number] for number, (label, status) in found.items() if number in owner and status == KEPT and label
    )
    assert dict(kept) == plain_cap(sizes, shared, share)
    assert {status for _, status in found.values()} <= {KEPT, "over_cap"}
    again = outcome(db, project, LabelRule(max_rater_share=share))
    assert again == found


def plain_reliability(
    votes: dict[int, dict[str, bool]], gold: dict[str, tuple[int, int]]
) -> dict[str, tuple[float, float]]:
    """The formulas of the module's head, one rating at a time."""
    shared = [list(of.values()) for of in votes.values() if len(of) > 1]
    agree = [
        sum(a == b for i, a in enumerate(v) for j, b in enumerate(v) if i != j) / (len(v) * (len(v) - 1))
        for v in shared
    ]
    mean = (1 + max(2 * sum(agree) / len(agree) - 1, 0) ** 0.5) / 2
    mean = max(min(mean, 0.95), 0.6)
    met: dict[str, list[float]] = defaultdict(list)
    for of in votes.values():
        for rater, value in of.items():
            others = [other for who, other in of.items() if who != rater]
            if others:
                met[rater].append(sum(other == value for other in others) / len(others))
    found = {}
    for rater in met.keys() | gold.keys():
        got, n = gold.get(rater, (0, 0))
        m = len(met[rater])
        right = max(min((sum(met[rater]) - (1 - mean) * m) / (2 * mean - 1), m), 0)
        accuracy = (got + right + SHRINK * mean) / (n + m + SHRINK)
        a = min(accuracy, HIGHEST)
        found[rater] = (accuracy, max(log(a / (1 - a)), 0) / log(mean / (1 - mean)))
    return found


def crowd(
    factory: Any, db: Session, project: Project, skills: list[float], items: int
) -> tuple[dict[int, dict[str, bool]], dict[int, bool]]:
    draw = random.Random(11)
    votes: dict[int, dict[str, bool]] = {}
    truth: dict[int, bool] = {}
    for number in range(items):
        completion = factory.completion(project, f"A{number}", f"Q{number}?")
        truth[completion.id] = draw.random() < 0.6
        votes[completion.id] = {}
        for rater, skill in enumerate(skills):
            if draw.random() < 0.8:
                value = truth[completion.id] == (draw.random() < skill)
                factory.rating(completion, value, f"user:{rater}", "annotation")
                votes[completion.id][f"user:{rater}"] = value
    return votes, truth


def dawid_skene(votes: dict[int, dict[str, bool]], rounds: int = 50) -> dict[str, float]:
    """One-coin EM, the textbook way."""
    raters = {rater for of in votes.values() for rater in of}
    skill = dict.fromkeys(raters, 0.7)
    for _ in range(rounds):
        sums: dict[str, list[float]] = defaultdict(lambda: [1.0, 2.0])
        for of in votes.values():
            odds = sum((1 if value else -1) * log(skill[rater] / (1 - skill[rater])) for rater, value in of.items())
            up = 1 / (1 + 2.718281828459045**-odds)
            for rater, value in of.items():
                sums[rater][0] += up if value else 1 - up
                sums[rater][1] += 1
        skill = {rater: min(max(right / n, 0.02), 0.98) for rater, (right, n) in sums.items()}
    return skill


def test_reliability_against_plain_python_and_em(db: Session, factory: Any) -> None:
    project = factory.project()
    skills = [0.95, 0.85, 0.8, 0.75, 0.5]
    votes, truth = crowd(factory, db, project, skills, 300)
    known = reliability(project)
    found = {row.rater: (row.accuracy, row.weight) for row in db.execute(select(known))}
    plain = plain_reliability(votes, {})
    assert found.keys() == plain.keys()
    for rater, (accuracy, weight) in plain.items():
        assert found[rater] == (pytest.approx(accuracy, abs=1e-9), pytest.approx(weight, abs=1e-9))
    em = dawid_skene(votes)
    assert sorted(em, key=em.__getitem__) == sorted(plain, key=lambda rater: plain[rater][0])
    for number, skill in enumerate(skills):
        assert found[f"user:{number}"][0] == pytest.approx(em[f"user:{number}"], abs=0.07)
        assert found[f"user:{number}"][0] == pytest.approx(skill, abs=0.08)
    weighted, plainly = outcome(db, project, LabelRule(votes="weighted")), outcome(db, project)
    right = [sum(label == truth[number] for number, (label, _) in of.items()) for of in (weighted, plainly)]
    assert right[0] > right[1]  # the guesser no longer tips the scales, and ties are gone


def test_gold_answers_count(db: Session, factory: Any) -> None:
    project = factory.project()
    queue = default_queue(db, project)
    user = factory.member(project, Role.ANNOTATOR)
    for number in range(12):
        completion = factory.completion(project, f"A{number}")
        gold = factory.add(GoldItem(project_id=project.id, completion_id=completion.id, value=True))
        factory.add(
            AnnotationSlot(
                queue_id=queue.id, completion_id=completion.id, number=number, gold_id=gold.id, gold_for=user.id,
                gold_answer=number < 3, done_by=user.id,
            )
        )  # fmt: skip
    (row,) = db.execute(select(reliability(project))).all()
    assert (row.source, row.rater, row.n) == ("annotation", f"user:{user.id}", 12)
    assert row.accuracy == pytest.approx((3 + SHRINK * 0.8) / (12 + SHRINK))  # 0.8: nothing else is known of anybody
    assert row.weight == 0  # below chance counts for nothing, never against itself


def test_the_default_rule_keeps_old_hashes_and_words(db: Session, factory: Any) -> None:
    plain, saved = factory.project(), factory.project()
    for project in (plain, saved):
        insert_items(db, project, simple_items(80))
    save_rule(db, saved, LabelRule(), None)
    one, two = freeze(db, plain), freeze(db, saved)
    assert one.content_hash == two.content_hash
    assert one.rule == RULE == two.rule
    assert "adjudicated" not in one.counts


def test_a_snapshot_keeps_the_rule_and_what_each_clause_dropped(db: Session, factory: Any) -> None:
    project, lead = factory.project(), factory.user()
    first = [entry | {"source": "annotation", "rater": "r0"} for entry in simple_items(150)]
    insert_items(
        db, project, [*first, *(entry | {"prompt": f"Other {i}?"} for i, entry in enumerate(simple_items(150)))]
    )
    vote(factory, project, "++-")
    rule = LabelRule(votes="unanimous", max_rater_share=0.4)
    save_rule(db, project, rule, lead)
    factory.add(RaterSetting(project_id=project.id, source="import", rater="nobody", weight=0.5))
    snapshot = freeze(db, project, lead)
    assert snapshot.rule["settings"] == rule.model_dump()
    assert "unanimous" in snapshot.rule["label"]
    assert snapshot.rule["raters"] == {"left_out": 0, "reduced": 1}
    assert snapshot.counts["dropped"]["split_votes"] == 1
    assert snapshot.counts["dropped"]["over_cap"] > 0
    entry = db.scalars(select(AuditEntry).where(AuditEntry.action == "label_rule.changed")).one()
    assert entry.details["after"] == {"votes": "unanimous", "max_rater_share": 0.4}
    save_rule(db, project, rule, lead)
    assert len(db.scalars(select(AuditEntry).where(AuditEntry.action == "label_rule.changed")).all()) == 1


def test_forms() -> None:
    assert parse_rule({}) == LabelRule()
    typed = {"votes": "weighted", "min_votes": "3", "min_share": "66,5 %", "max_rater_share": "5"}
    assert parse_rule(typed) == LabelRule(votes="weighted", min_votes=3, min_share=0.665, max_rater_share=0.05)
    with pytest.raises(InvalidError) as caught:
        parse_rule({"votes": "loudest", "min_votes": "0", "min_share": "40", "max_rater_share": "half"})
    assert set(caught.value.fields) == {"votes", "min_votes", "min_share", "max_rater_share"}


def test_a_rule_of_a_later_version_is_refused_in_words(db: Session, factory: Any) -> None:
    project = factory.project()
    project.settings = {"label_rule": {"votes": "median"}}
    with pytest.raises(InvalidError, match="cannot be read"):
        load_rule(project)
