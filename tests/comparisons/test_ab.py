from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.evaluations import ab, ab_results
from app.evaluations.ab import Answers
from app.models import AbItem, AbTest, AbVote, Role
from tests.comparisons.support import suite_results, suite_version
from tests.comparisons.test_comparisons import evaluating, heldout_files
from tests.evaluations.support import checkpoint_of, evaluation_in, result, run_in
from worker.comparisons import finish


def answers(name: str, num: int = 40, text: str = "Answer") -> Answers:
    prompts: dict[str, tuple[list[Any], str]] = {
        f"k{i}": ([{"role": "user", "content": f"Question {i}?"}], "topic") for i in range(num)
    }
    return Answers(name, {key: f"{text} to {key}" for key in prompts}, prompts)


@pytest.fixture
def scene(factory: Any, db: Any) -> Any:
    project = factory.project()
    lead = factory.member(project)
    first, second = answers("Zebra-KTO", text="One"), answers("Quagga-DPO", text="Two")
    test = ab.create(db, project, lead, name="Which?", instructions="", first=first, second=second, num_items=40)
    return project, lead, test


def vote_all(db: Any, test: AbTest, user: Any, prefers: str) -> None:
    """A rater who always prefers an arm, wherever it stands; ``left`` and ``tie`` are others."""
    while (item := ab.next_item(db, test, user)) is not None:
        side: Any = (
            prefers if prefers in {"left", "tie"} else ("left" if ab.left_arm(item, user.id) == prefers else "right")
        )
        ab.vote(db, test, user, item.id, side)


def test_a_tenth_comes_again_with_the_sides_swapped(db: Any, scene: Any) -> None:
    _, lead, test = scene
    items = db.scalars(select(AbItem).where(AbItem.test_id == test.id).order_by(AbItem.number)).all()
    assert [item.number for item in items] == list(range(44))
    by_id = {item.id: item for item in items}
    repeats = [item for item in items if item.repeat_of is not None]
    assert len(repeats) == 4
    for repeat in repeats:
        original = by_id[repeat.repeat_of]
        assert (repeat.text_a, repeat.text_b) == (original.text_a, original.text_b)
        assert repeat.number - original.number > 5
        assert ab.left_arm(repeat, lead.id) != ab.left_arm(original, lead.id)
    sides = [ab.left_arm(item, lead.id) for item in items]
    assert 8 < sides.count("a") < 36
    assert sides != [ab.left_arm(item, lead.id + 1) for item in items], "another rater has other sides"


def test_equal_answers_are_left_out_and_too_few_refused(db: Any, scene: Any, factory: Any) -> None:
    from app.core.errors import InvalidError

    project, lead, _ = scene
    same = answers("A", 30)
    mixed = Answers("B", {k: ("other" if i < 12 else t) for i, (k, t) in enumerate(same.texts.items())}, same.prompts)
    test = ab.create(db, project, lead, name="n", instructions="", first=same, second=mixed, num_items=30)
    count = select(func.count()).select_from(AbItem).where(AbItem.test_id == test.id)
    assert db.scalar(count.where(AbItem.repeat_of.is_(None))) == 12
    with pytest.raises(InvalidError):
        ab.create(db, project, lead, name="n", instructions="", first=same, second=same, num_items=30)


def test_a_vote_counts_once_and_can_be_taken_back(db: Any, scene: Any) -> None:
    _, lead, test = scene
    item = ab.next_item(db, test, lead)
    assert item is not None
    for side in ("left", "right"):
        ab.vote(db, test, lead, item.id, side)
    vote = db.scalars(select(AbVote)).one()
    assert vote.choice == vote.left == ab.left_arm(item, lead.id)
    following = ab.next_item(db, test, lead)
    assert following is not None
    assert following.id != item.id
    assert ab.undo(db, test, lead)
    assert not ab.undo(db, test, lead)
    again = ab.next_item(db, test, lead)
    assert again is not None
    assert again.id == item.id


def test_the_pages_name_no_arm_until_the_test_is_closed(db: Any, scene: Any, sign_in: Any, factory: Any) -> None:
    project, lead, test = scene
    rater = factory.member(project, Role.ANNOTATOR)
    client = sign_in(rater)
    base = f"/p/{project.slug}/ab"
    for address in (base, f"{base}/{test.id}"):
        page = client.get(address)
        assert page.status_code == 200
        assert "Zebra" not in page.text
        assert "Quagga" not in page.text
    page = client.get(f"{base}/{test.id}").text
    item = ab.next_item(db, test, rater)
    assert item is not None
    left = item.text_a if ab.left_arm(item, rater.id) == "a" else item.text_b
    right = item.text_b if left == item.text_a else item.text_a
    assert page.index(left) < page.index(right)
    assert client.post(f"{base}/{test.id}/vote", data={"item": item.id, "side": "left"}).status_code == 303
    assert "1 of 44" in client.get(f"{base}/{test.id}").text
    assert client.post(f"{base}/{test.id}/undo").status_code == 303
    assert "0 of 44" in client.get(f"{base}/{test.id}").text
    assert client.post(f"{base}/{test.id}/close").status_code == 403, "raters close nothing"
    assert client.post(f"{base}/{test.id}/vote", data={"item": item.id, "side": "up"}).status_code == 422
    vote_all(db, test, rater, "a")
    assert "You have judged all 44 pairs" in client.get(f"{base}/{test.id}").text
    client = sign_in(lead)
    assert "Zebra" not in client.get(f"{base}/{test.id}").text
    assert client.post(f"{base}/{test.id}/close").status_code == 303
    closed = client.get(f"{base}/{test.id}").text
    assert "Zebra-KTO" in closed
    assert client.post(f"{base}/{test.id}/vote", data={"item": item.id, "side": "left"}).status_code == 409
    assert client.post(f"{base}/{test.id}/undo").status_code == 409
    assert "Zebra-KTO" in sign_in(rater).get(f"{base}/{test.id}").text


def test_raters_who_agree_show_a_preference(db: Any, scene: Any, factory: Any) -> None:
    project, lead, test = scene
    for number in range(6):
        rater = factory.member(project)
        while (item := ab.next_item(db, test, rater)) is not None:
            wanted = "b" if (item.repeat_of or item.id) % 5 == number % 5 else "a"
            ab.vote(db, test, rater, item.id, "left" if ab.left_arm(item, rater.id) == wanted else "right")
    ab.close(db, project, lead, test)
    found = ab_results.result_of(db, test)
    assert found is not None
    assert (found.num_a, found.num_ties, found.num_b) == (192, 0, 48)
    assert found.raw == pytest.approx(0.8)
    assert found.win_rate.value == pytest.approx(0.8, abs=0.02)
    assert found.verdict == 1
    assert found.consistency.share == 1.0
    assert ab_results.sentence(test, found).startswith("Raters prefer Zebra-KTO to Quagga-DPO: Zebra-KTO in 8")


def test_a_rater_who_looks_at_the_side_alone_is_found_out(db: Any, scene: Any, factory: Any) -> None:
    project, _, test = scene
    for _ in range(6):
        vote_all(db, test, factory.member(project), "left")
    found = ab_results.result_of(db, test)
    assert found is not None
    assert found.consistency.share == 0.0
    assert (found.left_rate.value or 0) > 0.95
    assert found.verdict == 0
    assert "no evidence of a difference (we could have seen \u2265" in ab_results.sentence(test, found)


def test_few_raters_give_no_interval(db: Any, scene: Any) -> None:
    _, lead, test = scene
    assert ab_results.result_of(db, test) is None
    vote_all(db, test, lead, "b")
    found = ab_results.result_of(db, test)
    assert found is not None
    assert (found.win_rate.low, found.verdict, found.kappa) == (None, 0, None)
    assert ab_results.sentence(test, found).startswith("Not enough evidence: 40 prompts and 1 rater.")


def test_a_test_is_made_from_a_comparison(db: Any, factory: Any, sign_in: Any) -> None:
    from tests.comparisons.support import kto_run

    project = factory.project()
    lead = factory.member(project)
    run = kto_run(db, project)
    bot = suite_version(factory, project, "support-bot", num_samples=20)
    from app.models import SuiteSample

    for number in range(20):
        data = {"id": str(number), "input": f"Ask {number}?"}
        factory.add(SuiteSample(version_id=bot.id, number=number, sample_id=str(number), data=data))
    comparison, job = evaluating(db, (project, lead, run), factory, {"primary": str(bot.id)})
    heldout_files(job)
    for arm in ("reference", "dpo-0", "kto_all-0"):
        suite_results(factory, job, bot, arm, 0.5, text=f"From {arm}" if arm != "reference" else "From the base")
    finish(job.id)
    job.status = "succeeded"
    db.flush()
    client = sign_in(lead)
    page = client.get(f"/p/{project.slug}/ab/new?comparison={comparison.id}").text
    assert f'value="job:{job.id}:kto_all-0" selected' in page
    typed = {"name": "Blind", "first": f"job:{job.id}:kto_all-0", "second": f"job:{job.id}:dpo-0", "num_items": "15"}
    assert client.post(f"/p/{project.slug}/ab", data=typed | {"comparison": str(comparison.id)}).status_code == 303
    test = db.scalars(select(AbTest)).one()
    assert (test.arm_a, test.arm_b, test.comparison_id) == ("KTO-all, seed 0", "DPO, seed 0", comparison.id)
    item = db.scalars(select(AbItem).where(AbItem.test_id == test.id)).first()
    assert item is not None
    assert item.prompt[0]["content"].startswith("Ask ")
    assert item.text_a.startswith("From kto_all-0")


def test_a_test_is_made_from_two_checkpoints(db: Any, factory: Any, sign_in: Any, tmp_path: Path) -> None:
    project = factory.project()
    lead = factory.member(project)
    run = run_in(factory, project)
    names = tuple(f"topic {index}" for index in range(8))
    shown = evaluation_in(factory, run, checkpoint_of(factory, run), tmp_path, diversity=result(10, names)["diversity"])
    client = sign_in(lead)
    typed = {"name": "n", "first": f"screen:{shown.id}:policy", "second": f"screen:{shown.id}:reference"}
    assert client.post(f"/p/{project.slug}/ab", data=typed | {"num_items": "12"}).status_code == 303
    bad = client.post(f"/p/{project.slug}/ab", data=typed | {"num_items": "9", "name": "Kept name"})
    assert bad.status_code == 422
    assert "must lie between 10 and 500" in bad.text
    assert "Kept name" in bad.text
    for value in (
        "",
        "screen:x:policy",
        f"screen:{shown.id}:both",
        f"job:{shown.id}:policy",
        "screen:99999999999:policy",
    ):
        assert client.post(f"/p/{project.slug}/ab", data=typed | {"num_items": "12", "first": value}).status_code == 422
    other = factory.project()
    client = sign_in(factory.member(other))
    assert client.post(f"/p/{other.slug}/ab", data=typed | {"num_items": "12"}).status_code == 422


def test_other_projects_and_roles(db: Any, scene: Any, sign_in: Any, factory: Any) -> None:
    project, _, test = scene
    other = factory.project()
    client = sign_in(factory.member(other, Role.OWNER))
    assert client.get(f"/p/{other.slug}/ab/{test.id}").status_code == 404
    item = db.scalars(select(AbItem.id).where(AbItem.test_id == test.id)).first()
    assert client.post(f"/p/{other.slug}/ab/{test.id}/vote", data={"item": item, "side": "left"}).status_code == 404
    assert "Which?" not in client.get(f"/p/{other.slug}/ab").text
    viewer = sign_in(factory.member(project, Role.VIEWER))
    assert "Only raters vote" in viewer.get(f"/p/{project.slug}/ab/{test.id}").text
    assert viewer.post(f"/p/{project.slug}/ab/{test.id}/vote", data={"item": item, "side": "left"}).status_code == 403
    assert viewer.get(f"/p/{project.slug}/ab/new").status_code == 403
