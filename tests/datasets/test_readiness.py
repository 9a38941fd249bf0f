from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.datasets.facts import Arrival, ClassCount
from app.datasets.lengths import length_table
from app.datasets.readiness import weights_band
from app.datasets.service import freeze, readiness
from app.datasets.splits import SIDES
from app.models import Project
from tests.datasets.helpers import insert_items, item, simple_items


def test_an_empty_project_is_not_fit(db: Session, factory: Any) -> None:
    project = factory.project()
    found = readiness(db, project)
    assert not found.can_freeze
    assert found.sentence == "Not fit for KTO yet."
    assert found.checks[0].text == "There are no labels"
    assert found.checks[0].url == f"/p/{project.slug}/sources"
    assert found.ratio is None
    assert found.facts.agreement is None


def test_one_class_only_is_an_error(db: Session, factory: Any) -> None:
    project = factory.project()
    insert_items(db, project, [item(f"Q{i}", "No.", False) for i in range(40)])
    assert [check.text for check in readiness(db, project).errors] == ["All labels are undesirable"]


def fit_project(db: Session, factory: Any) -> Project:
    project: Project = factory.project()
    insert_items(db, project, simple_items(1200))
    return project


def test_figures_agree_with_the_snapshot(db: Session, factory: Any) -> None:
    project = fit_project(db, factory)
    found, snapshot = readiness(db, project), freeze(db, project)
    assert found.facts.labels == ClassCount(None, 800, 400)
    for side in SIDES:
        count = found.facts.by_side[side]
        expected = snapshot.counts[side]
        assert (count.desirable, count.undesirable) == (expected["desirable"], expected["undesirable"])
    assert {(c.name, c.total) for c in found.categories} == {(f"topic-{i}", 300) for i in range(4)}
    assert [(c.name, c.desirable, c.undesirable) for c in found.facts.by_source] == [("import", 800, 400)]
    assert found.facts.ratings == 1200
    assert found.ratio == 2.0
    assert found.weights.undesirable == pytest.approx(1.5, abs=0.002)
    assert found.weights_band == "weights 1.00 and 1.50 to 2.00"
    assert found.can_freeze
    assert found.sentence == "Fit for KTO."
    assert sum(found.lengths.desirable) == 800
    assert sum(found.lengths.undesirable) == 400


def test_what_is_wrong_is_said(db: Session, factory: Any) -> None:
    project = fit_project(db, factory)
    insert_items(db, project, [item(f"Rare {i}?", "x" * 400, True, category="rare", source="shop") for i in range(20)])
    insert_items(
        db,
        project,
        [item("Hello", f"Cut {i}", i % 2 == 0, conversation_id=f"c{i}", finish_reason="length") for i in range(99)],
    )
    tied = factory.completion(project, "Tied.", "Tied?")
    factory.rating(tied, True, "a")
    factory.rating(tied, False, "b")
    found = readiness(db, project)
    texts = {check.text: check.state for check in found.checks}
    assert texts["One class only in 1 of 5 categories"] == "warn"
    assert texts["One class only from shop"] == "warn"
    assert texts["1 prompt on two sides, in different conversations"] == "warn"
    assert texts["99 completions cut at generation"] == "warn"
    assert texts["1 tie held back"] == "ok"
    assert found.facts.held_back == 1
    assert found.sentence == f"Fit for KTO, with {len(found.warnings)} things to know."
    assert found.facts.prompts_with_both == 1
    assert found.facts.paired_labels == 99
    assert all(check.remedy for check in found.warnings)


def test_another_project_is_not_counted(db: Session, factory: Any) -> None:
    project = fit_project(db, factory)
    insert_items(db, factory.project(), simple_items(77))
    assert readiness(db, project).facts.labels.total == 1200


def test_length_skew_and_bins() -> None:
    rows = sorted([(True, 100, 50), (True, 120, 50), (False, 150, 40), (False, 900, 1)], key=lambda row: row[1])
    lengths = length_table(rows)
    assert (lengths.median_desirable, lengths.median_undesirable) == (100, 150)
    assert lengths.skew == pytest.approx(0.5)
    assert lengths.edges[:3] == [0, 8, 16]
    assert sum(lengths.desirable) == 100
    assert lengths.undesirable[150 // 8] == 40
    assert lengths.undesirable[-1] == 1  # beyond the last edge belongs to the last bin
    assert length_table([]).median_desirable is None


@pytest.mark.parametrize(
    ("desirable", "undesirable", "words"),
    [
        (100, 1000, "weights 10.00 to 13.33 and 1.00"),
        (110, 100, "weights 1.00 and 1.00"),
        (194, 100, "weights 1.00 and 1.46 to 1.94"),
        (5, 0, "no weights with one class only"),
    ],
)
def test_weights_band(desirable: int, undesirable: int, words: str) -> None:
    assert weights_band(desirable, undesirable) == words


def test_arrivals_of_the_last_day(db: Session, factory: Any) -> None:
    project = factory.project()
    for hours in (0.5, 5.5, 5.6, 30):
        rating = factory.rating(factory.completion(project, f"{hours}"), source="shop")
        rating.created_at = utcnow() - timedelta(hours=hours)
    db.flush()
    (shop,) = readiness(db, project).facts.arrivals
    assert shop.total == 3
    assert shop.hours[23] == 1
    assert shop.hours[18] == 2
    assert shop.state == "arriving"


def test_a_source_that_stopped_is_silent() -> None:
    now = utcnow()
    assert Arrival("shop", [5] * 21 + [0] * 3, now).state == "silent"
    assert Arrival("shop", [0] * 20 + [1] + [0] * 3, now).state == "quiet"
