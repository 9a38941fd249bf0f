from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from app.models import Comparison, Endpoint, Role, Run
from tests.comparisons.support import finish_run, kto_run, suite_version, write_heldout
from tests.comparisons.test_comparisons import evaluating, heldout_files, reloaded, start
from worker.comparisons import finish


@pytest.fixture
def scene(factory: Any, db: Any) -> Any:
    project = factory.project()
    return project, factory.member(project), kto_run(db, project)


def url_of(scene: Any) -> str:
    return f"/p/{scene[0].slug}/evaluations/{scene[2].id}/comparison"


def key_in(page: str) -> str:
    return page.split('name="launch_key" value="', 1)[1].split('"', 1)[0]


def test_one_button_with_its_cost_starts_the_baseline_once(scene: Any, sign_in: Any, db: Any) -> None:
    client = sign_in(scene[1])
    page = client.get(url_of(scene))
    assert page.status_code == 200
    assert "Train the baseline and compare" in page.text
    assert "2 runs to train, about 10\u00a0min on one worker" in page.text
    assert "DPO has 40 pairs and sets 20 labels aside" in page.text
    typed = {"launch_key": key_in(page.text), "num_seeds": "1", "paired": "1"}
    for _ in range(2):
        assert client.post(url_of(scene), data=typed).status_code == 303
    assert db.scalar(select(func.count()).select_from(Comparison)) == 1
    page = client.get(url_of(scene)).text
    assert "The arms are being trained: 1 of 3 runs are over." in page
    assert "About 10\u00a0min of training are left" in page
    assert "dpo-" in page


def test_what_was_typed_stays_beside_what_does_not_fit(scene: Any, sign_in: Any, db: Any, factory: Any) -> None:
    client = sign_in(scene[1])
    suite_version(factory, scene[0], "support-bot")
    factory.add(Endpoint(project_id=scene[0].id, name="our judge", kind="judge", url="https://x/v1", model="m"))
    typed = {"launch_key": "k", "num_seeds": "9", "dpo_beta": "0.1 zebra", "system_prompt": "Be brief."}
    page = client.post(url_of(scene), data=typed)
    assert page.status_code == 422
    assert "must lie between 1 and 5" in page.text
    assert "is no number" in page.text
    assert "Be brief." in page.text
    assert "our judge" in page.text
    assert "support-bot" in page.text
    assert db.scalar(select(func.count()).select_from(Run)) == 1


def test_a_refused_arm_leaves_no_run_behind(scene: Any, sign_in: Any, db: Any) -> None:
    run = scene[2]
    run.config = run.config | {"base_model": "/nowhere/at-all"}
    db.flush()
    page = sign_in(scene[1]).post(url_of(scene), data={"launch_key": "k", "paired": "1"})
    assert page.status_code == 422
    assert db.scalar(select(func.count()).select_from(Run)) == 1
    assert db.scalar(select(func.count()).select_from(Comparison)) == 0


def test_the_decision_page_shows_the_sentence_and_what_it_rests_on(
    scene: Any, sign_in: Any, db: Any, factory: Any
) -> None:
    _, job = evaluating(db, scene, factory)
    client = sign_in(scene[1])
    assert "The chosen arms are being judged on TEST." in client.get(url_of(scene)).text
    heldout_files(job)
    finish(job.id)
    page = client.get(url_of(scene)).text
    assert "KTO is better than DPO on AUC within the prompt on held-out votes" in page
    assert "KTO-paired \u2212 DPO" in page
    assert "60 conversations, TEST" in page
    assert "Holm over 2" in page
    assert "could see \u2265" in page
    assert "One seed: how much another would differ is not known." in page
    assert "Compare again" in page
    assert "240 held-out labels" in page
    assert " wins" not in page


def test_no_difference_is_grey_and_says_what_could_have_been_seen(
    scene: Any, sign_in: Any, db: Any, factory: Any
) -> None:
    _, job = evaluating(db, scene, factory)
    heldout_files(job, kto=0.5, dpo=0.5)
    finish(job.id)
    page = sign_in(scene[1]).get(url_of(scene)).text
    assert "no evidence of a difference (we could have seen \u2265" in page
    assert '<section class="k-callout " aria-label="Decision">' in page


def test_a_failed_comparison_says_why_and_offers_another(scene: Any, sign_in: Any, db: Any) -> None:
    comparison = reloaded(db, start(db, scene))
    for arm in comparison.arms:
        if arm.run is not None:
            finish_run(db, arm.run, "failed" if arm.arm == "dpo" else "succeeded")
    from worker.comparisons import advance_comparisons

    advance_comparisons()
    page = sign_in(scene[1]).get(url_of(scene)).text
    assert "The comparison failed." in page
    assert "is failed." in page
    assert "Train the baseline and compare" in page


@pytest.mark.parametrize(("role", "can_launch"), [(Role.LEAD, True), (Role.VIEWER, False)])
def test_a_viewer_looks_and_a_lead_starts(scene: Any, sign_in: Any, factory: Any, role: Role, can_launch: bool) -> None:
    client = sign_in(factory.member(scene[0], role))
    page = client.get(url_of(scene))
    assert page.status_code == 200
    assert ("Train the baseline and compare" in page.text) == can_launch
    posted = client.post(url_of(scene), data={"launch_key": "k", "paired": "1"})
    assert posted.status_code == (303 if can_launch else 403)


def test_other_projects_and_annotators_see_nothing(scene: Any, sign_in: Any, factory: Any, db: Any) -> None:
    comparison = start(db, scene)
    ours = factory.project()
    client = sign_in(factory.member(ours, Role.OWNER))
    there = f"/p/{ours.slug}/evaluations/{scene[2].id}/comparison"
    for address in (url_of(scene), there, f"{there}?number={comparison.id}"):
        assert client.get(address).status_code == 404
    assert client.post(f"{there}/{comparison.id}/cancel").status_code == 404
    assert sign_in(factory.member(scene[0], Role.ANNOTATOR)).get(url_of(scene)).status_code == 403


def test_cancel_and_wrong_numbers(scene: Any, sign_in: Any, db: Any) -> None:
    comparison = start(db, scene)
    client = sign_in(scene[1])
    assert client.get(f"{url_of(scene)}?number={comparison.id + 1}").status_code == 404
    assert client.post(f"{url_of(scene)}/{comparison.id}/cancel").status_code == 303
    assert "The comparison was cancelled." in client.get(url_of(scene)).text
    assert client.post(f"{url_of(scene)}/{comparison.id}/cancel").status_code == 409


def test_a_dpo_run_says_where_a_comparison_starts(scene: Any, sign_in: Any, db: Any) -> None:
    scene[2].objective = "dpo"
    db.flush()
    assert "A comparison starts from a KTO run" in sign_in(scene[1]).get(url_of(scene)).text


def test_an_arms_run_leads_to_its_comparison(scene: Any, sign_in: Any, db: Any, factory: Any) -> None:
    comparison = start(db, scene)
    baseline = next(arm for arm in comparison.arms if arm.arm == "dpo")
    there = f"{url_of(scene)}?number={comparison.id}"
    page = sign_in(scene[1]).get(f"/p/{scene[0].slug}/evaluations/{baseline.run_id}/comparison").text
    assert f'href="{there}"' in page
    assert f"from {scene[2].name}" in page
    assert "A comparison starts from a KTO run" in page
    assert "Arm of a comparison" not in sign_in(scene[1]).get(url_of(scene)).text


def test_too_few_prompts_are_not_enough(scene: Any, sign_in: Any, db: Any, factory: Any) -> None:
    from tests.comparisons.support import job_folder_of

    _, job = evaluating(db, scene, factory)
    for name in ("reference", "dpo-0", "kto_all-0"):
        write_heldout(job_folder_of(job), name, 0.5, prompts=6)
    finish(job.id)
    page = sign_in(scene[1]).get(url_of(scene)).text
    assert "Not enough evidence" in page
    assert "at least 10 are needed" in page
