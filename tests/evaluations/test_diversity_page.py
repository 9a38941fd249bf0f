"""The diversity page of a run with as many categories as a real one: what it shows, finds, refuses, and what is decided on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from app.evaluations.alarms import alarms_of_run, open_alarms
from app.evaluations.queries import evaluations_of
from app.evaluations.service import record_full, record_screen
from app.models import AuditEntry, EvalJob, EvaluationAlarm, EvaluationCategory, Role
from tests.evaluations import large
from tests.evaluations.support import checkpoint_of, contrast, evaluation_in, run_in

CONFIG = {"base_model": "/srv/models/tiny-base", "beta": 0.1, "objective": "kto", "evaluation": {"interval_steps": 80}}


@pytest.fixture
def lead(factory: Any, sign_in: Any) -> Any:
    project = factory.project()
    return project, sign_in(factory.member(project, Role.LEAD))


@pytest.fixture
def small(lead: Any, factory: Any, tmp_path: Path) -> Any:
    """A run of three checkpoints whose last two raised seven alarms; the address of its page, and the client."""
    project, client = lead
    run = run_in(factory, project, config=CONFIG)
    large.record_run(factory, run, tmp_path, steps=(80, 160, 240), scale=7)
    return run, client, f"/p/{project.slug}/evaluations/{run.id}/diversity"


def test_a_result_is_recorded_with_its_tests_and_alarms_once(db: Session, factory: Any, tmp_path: Path) -> None:
    run = run_in(factory, factory.project())
    checkpoint = checkpoint_of(factory, run, 80)
    data = large.result(80, 1.0, scale=7, alarmed=True)
    first = record_screen(db, run=run, checkpoint=checkpoint, data=data, attempt_dir=tmp_path)
    record_screen(db, run=run, checkpoint=checkpoint, data=data, attempt_dir=tmp_path)
    full = record_full(db, run=run, checkpoint=checkpoint, data=data | {"alarms": []}, folder=tmp_path)
    assert full.kind == "full"
    assert first.diversity is not None
    assert "categories" not in first.diversity
    assert first.diversity["across"]["opening_share"]["policy"] == 0.06
    row = db.get_one(EvaluationCategory, (first.id, "Creative writing, task 1"))
    assert (row.domain, row.open_ended, row.p, row.q, row.num_gated_prompts) == (
        "Creative writing",
        True,
        0.0001,
        0.001,
        2,
    )
    closed = db.get_one(EvaluationCategory, (first.id, "Code, task 1"))
    assert (closed.open_ended, closed.q) == (False, None)
    raised = db.scalars(select(EvaluationAlarm).where(EvaluationAlarm.run_id == run.id)).all()
    assert {alarm.evaluation_id for alarm in raised} == {first.id}
    assert {alarm.subject: alarm.data for alarm in raised} == {alarm["subject"]: alarm for alarm in data["alarms"]}
    assert [item.id for item in evaluations_of(db, run)] == [full.id], "the full evaluation stands for the checkpoint"


def test_a_page_of_661_categories_and_13_checkpoints(lead: Any, factory: Any, tmp_path: Path, db: Session) -> None:
    project, client = lead
    run = run_in(factory, project, config=CONFIG)
    large.record_run(factory, run, tmp_path)
    url = f"/p/{project.slug}/evaluations/{run.id}/diversity"
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(db.connection(), "before_cursor_execute", note)
    try:
        page = client.get(url)
    finally:
        event.remove(db.connection(), "before_cursor_execute", note)
    assert page.status_code == 200
    assert "661 categories, 13 checkpoints" in page.text
    assert "7 of 561 open-ended categories are less varied" in page.text
    assert "half collapse in a category: 9 times in 10" in page.text
    assert "Last 5 domains: closed-form controls" in page.text
    assert len(page.content) < 130_000
    assert len(statements) <= 16
    cells = client.get(f"{url}/cells").json()
    assert len(cells["names"]) == sum(block[2] for block in cells["blocks"]) == 661
    assert [len(row) for row in cells["changes"]] == [661] * 13
    assert sorted(cells["names"][index] for index in cells["alarms"]) == sorted(
        large.name_of(domain, number) for domain, count in large.COLLAPSED.items() for number in range(count)
    )
    first_of_block = cells["names"][next(index for index, name in enumerate(cells["names"]) if "Creative" in name)]
    assert first_of_block in {large.name_of("Creative writing", number) for number in range(3)}, "the dark left edge"
    assert {cells["names"][index].split(",")[0] for index in cells["controls"]} == set(large.CLOSED)
    assert [block[0] for block in cells["blocks"]][-5:] == sorted(large.CLOSED), "controls stand last"


def test_the_address_filters_sorts_and_finds(small: Any) -> None:
    _, client, url = small

    def names(query: str) -> list[str]:
        found: list[str] = client.get(f"{url}/cells?{query}").json()["names"]
        return found

    everything = names("")
    assert len(names("show=open")) < len(everything)
    assert len(names("show=alarms")) == 7
    assert {name.split(",")[0] for name in names("domain=Travel")} == {"Travel"}
    by_name = client.get(f"{url}/cells?order=all-name").json()
    assert [block[0] for block in by_name["blocks"]] == ["Open-ended", "Closed-form"]
    assert by_name["names"][: by_name["blocks"][0][2]] == sorted(by_name["names"][: by_name["blocks"][0][2]])
    at_first = client.get(f"{url}?step=80").text
    assert "Largest changes" in at_first
    assert "none is an alarm" in at_first
    page = client.get(f"{url}?q=persuasion").text
    assert "Found by “persuasion”" in page
    assert 'class="hm-veil"' in page, "found without script, too"
    assert "No category matches" in client.get(f"{url}?q=zebra").text
    assert "No category to show" in client.get(f"{url}?show=alarms&step=80").text


def test_fewer_distinct_answers_are_as_dark_as_more_similar_ones(small: Any) -> None:
    _, client, url = small
    page = client.get(f"{url}?metric=distinct_k&show=alarms").text
    picture = page[page.index('<svg class="k-chart"') : page.index("</svg>", page.index('<svg class="k-chart"'))]
    assert "hm-p4" in picture
    assert "hm-n4" not in picture
    assert "Change of distinct answers in" in picture
    assert "\u22122." in page, "the table keeps the figure's own sign"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("metric=colour", 422),
        ("show=closed", 422),
        ("order=random", 422),
        ("prompt=0", 422),
        ("step=x", 422),
        ("metric=semantic", 404),
        ("step=81", 404),
        ("at=81", 404),
        ("domain=Nowhere", 404),
        ("category=Nowhere", 404),
        ("category=Travel%2C+task+1&prompt=9", 404),
    ],
)
def test_what_is_not_there_is_said(small: Any, query: str, status: int) -> None:
    _, client, url = small
    assert client.get(f"{url}?{query}").status_code == status


def test_samples_show_what_repeats_and_how_many_differ(small: Any) -> None:
    _, client, url = small
    address = f"{url}?category=Persuasion%2C+task+1"
    page = client.get(address).text
    assert "prompt 2 of 2, 4 samples each" in page, "the prompt that lost most answers comes first"
    assert page.count("<mark>In the quiet village of Elmsworth, a young girl found the same old key.</mark>") == 3
    part = client.get(f"{address}&prompt=1&at=160", headers={"HX-Request": "true"}).text
    assert part.lstrip().startswith("<section")
    assert "prompt 1 of 2" in part
    assert "4 different of 4" in part
    assert "<mark>" not in part
    assert client.get(f"{url}?category=Advice%2C+task+1", headers={"HX-Request": "true"}).status_code == 404


def test_an_alarm_is_decided_with_a_reason_once(small: Any, db: Session) -> None:
    run, client, url = small
    before = alarms_of_run(db, run)
    assert [item.since for item in before] == [160] * 7
    alarm = before[0].row
    page = client.post(f"{url}/alarms/{alarm.id}", data={"decision": "accepted", "reason": "  "})
    assert page.status_code == 422
    assert "Say why" in page.text
    assert re.search(r'value="accepted" checked', page.text), "what was chosen stays"
    assert client.post(f"{url}/alarms/{alarm.id}", data={"reason": "x"}).status_code == 422
    assert client.post(f"{url}/alarms/{alarm.id}", data={"decision": "forget", "reason": "x"}).status_code == 422
    done = client.post(f"{url}/alarms/{alarm.id}", data={"decision": "accepted", "reason": "A <b>wanted</b> form."})
    assert done.status_code == 303
    assert done.headers["location"] == f"{url}#alarms"
    db.expire_all()
    rows = db.scalars(select(EvaluationAlarm).where(EvaluationAlarm.subject == alarm.subject)).all()
    assert [row.resolution for row in rows] == ["accepted", "accepted"], "the earlier look of the same series, too"
    entry = db.scalars(select(AuditEntry).where(AuditEntry.action == "alarm.accepted")).one()
    assert entry.details["reason"] == "A <b>wanted</b> form."
    shown = client.get(url).text
    assert "6 open" in shown
    assert "A &lt;b&gt;wanted&lt;/b&gt; form." in shown
    assert client.post(f"{url}/alarms/{alarm.id}", data={"decision": "dismissed", "reason": "x"}).status_code == 409
    assert len(open_alarms(db, evaluations_of(db, run)[-1])) == 6


def test_only_leads_of_the_project_decide(small: Any, factory: Any, sign_in: Any, db: Session) -> None:
    run, _, url = small
    alarm = alarms_of_run(db, run)[0].row
    body = {"decision": "dismissed", "reason": "x"}
    other = factory.project()
    stranger = sign_in(factory.member(other, Role.LEAD))
    assert stranger.post(f"{url}/alarms/{alarm.id}", data=body).status_code == 404
    theirs = run_in(factory, other)
    assert (
        stranger.post(f"/p/{other.slug}/evaluations/{theirs.id}/diversity/alarms/{alarm.id}", data=body).status_code
        == 404
    )
    assert stranger.get(f"/p/{other.slug}/evaluations/{run.id}/diversity/cells").status_code == 404
    project = run.project_id
    viewer = factory.user()
    from app.models import Membership

    factory.add(Membership(project_id=project, user_id=viewer.id, role=Role.VIEWER.value))
    watcher = sign_in(viewer)
    assert watcher.post(f"{url}/alarms/{alarm.id}", data=body).status_code == 403
    assert "Record the decision" not in watcher.get(url).text
    db.refresh(alarm)
    assert alarm.resolution == ""


def test_a_critical_alarm_leads_the_page(lead: Any, factory: Any, tmp_path: Path, db: Session) -> None:
    project, client = lead
    run = run_in(factory, project, config=CONFIG, status="paused", step=160, total_steps=1038)
    data = large.result(160, 0.0, scale=7) | {"alarms": [large.critical(160)]}
    record_screen(db, run=run, checkpoint=checkpoint_of(factory, run, 160), data=data, attempt_dir=tmp_path)
    page = client.get(f"/p/{project.slug}/evaluations/{run.id}/diversity").text
    assert "Critical at step 160" in page
    assert "The run is paused" in page
    assert "Next at step 240" in page
    listed = client.get(f"/p/{project.slug}/evaluations").text
    assert "1 critical" in listed
    assert "1 critical alarm at this checkpoint" in client.get(f"/p/{project.slug}/evaluations/{run.id}").text


def test_too_few_samples_are_not_called_none(lead: Any, factory: Any, tmp_path: Path, db: Session) -> None:
    project, client = lead
    run = run_in(factory, project, config=CONFIG)
    weak = large.result(80, 0.0, scale=7, power=0.1)
    record_screen(db, run=run, checkpoint=checkpoint_of(factory, run, 80), data=weak, attempt_dir=tmp_path)
    page = client.get(f"/p/{project.slug}/evaluations/{run.id}/diversity").text
    assert '<p class="k-figure word">Not known</p><p class="interval">too few samples, ' in page, "one line each"
    assert "1 time in 10" in page
    assert "Single categories have too few samples to tell." in page


def test_meanings_are_told_in_one_line(lead: Any, factory: Any, tmp_path: Path, db: Session) -> None:
    project, client = lead
    run = run_in(factory, project, config=CONFIG)
    url = f"/p/{project.slug}/evaluations/{run.id}/diversity"
    checkpoint = checkpoint_of(factory, run, 80)
    data = large.result(80, 0.0, scale=7)
    record_screen(db, run=run, checkpoint=checkpoint, data=data, attempt_dir=tmp_path)
    assert "eaning" not in client.get(url).text.partition('id="map"')[0].partition("kpi-four")[2], "nothing was asked"
    later = large.result(160, 0.0, scale=7)
    later["diversity"]["overall"]["semantic"] = contrast(0.512, 0.55, 0.02)
    record_screen(db, run=run, checkpoint=checkpoint_of(factory, run, 160), data=later, attempt_dir=tmp_path)
    page = client.get(url).text
    assert "Similarity in meaning (cosine): 0.512 to 0.550, +0.038 (+0.018 to +0.058)." in page
    told = "small gave no vectors: small/model.safetensors is damaged"
    job = EvalJob(project_id=project.id, kind="full", title="full", run_id=run.id, checkpoint_id=checkpoint.id, plan={})
    job.status, job.result = "succeeded", {"semantic": told}
    factory.add(job)
    record_full(db, run=run, checkpoint=checkpoint, data=data | {"alarms": []}, folder=tmp_path)
    assert f"Meanings were not compared. {told}" in client.get(f"{url}?step=80").text


def test_a_style_that_spreads_is_no_alarm(lead: Any, factory: Any, tmp_path: Path, db: Session) -> None:
    project, client = lead
    run = run_in(factory, project, config=CONFIG)
    data = large.result(80, 0.0, scale=7)
    data["diversity"] |= {"style_shift": True}
    data["diversity"]["overall"] |= {"similarity": contrast(0.3, 0.506, 0.01)}
    record_screen(db, run=run, checkpoint=checkpoint_of(factory, run, 80), data=data, attempt_dir=tmp_path)
    page = client.get(f"/p/{project.slug}/evaluations/{run.id}/diversity").text
    assert "A style spread, nothing collapsed: raw similarity rose by 0.206" in page
    assert "Style shift, not an alarm" in page
    assert "0 open" in page
    later = large.result(160, 0.0, scale=7) | {"alarms": [large.critical(160)]}
    later["diversity"] |= {"style_shift": True}
    record_screen(db, run=run, checkpoint=checkpoint_of(factory, run, 160), data=later, attempt_dir=tmp_path)
    page = client.get(f"/p/{project.slug}/evaluations/{run.id}/diversity").text
    assert "Critical at step 160" in page
    assert "Style shift, not an alarm" not in page


def test_results_from_before_tests_were_told_still_show(lead: Any, factory: Any, tmp_path: Path) -> None:
    project, client = lead
    run = run_in(factory, project)
    for step in (10, 20):
        evaluation_in(factory, run, checkpoint_of(factory, run, step), tmp_path)
    url = f"/p/{project.slug}/evaluations/{run.id}/diversity"
    page = client.get(url).text
    assert "Not tested" in page
    assert "Similarity against reference, raw" in page
    assert client.get(f"{url}/cells").json()["changes"] == [[20, 10], [20, 10]]
    assert client.get(f"{url}?metric=similarity_normalised").status_code == 404


def test_odd_values_are_refused_in_words(small: Any, db: Session) -> None:
    run, client, url = small
    huge, nul = "9" * 30, "%00"
    for query in (f"category={nul}", f"q={nul}", f"domain={nul}", f"step={huge}", f"at={huge}", f"prompt={huge}"):
        for headers in ({}, {"HX-Request": "true"}):
            assert client.get(f"{url}?{query}", headers=headers).status_code in {200, 404, 422}, query
        assert client.get(f"{url}/cells?{query}").status_code in {200, 404, 422}, query
    assert client.post(f"{url}/alarms/{huge}", data={"decision": "accepted", "reason": "x"}).status_code in {404, 422}
    alarm = alarms_of_run(db, run)[0].row
    assert client.post(f"{url}/alarms/{alarm.id}", data={"decision": "accepted", "reason": "\x00"}).status_code == 422
    assert (
        client.post(f"{url}/alarms/{alarm.id}", data={"decision": "accepted", "reason": "a" * 3000}).status_code == 422
    )
