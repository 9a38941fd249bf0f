from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from app.evaluations.comparison_views import judge_rows, judge_words
from app.models import Endpoint, JudgeVerdict, SuiteSample
from app.settings import get_settings
from tests.comparisons.support import kto_run, suite_results, suite_version
from tests.comparisons.test_comparisons import evaluating, heldout_files, reloaded
from tests.safety_lib.endpoint import chat_reply, serving
from worker.comparisons import finish


@pytest.fixture
def scene(factory: Any, db: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(get_settings(), "allow_private_endpoints", ["127.0.0.1"])
    project = factory.project()
    return project, factory.member(project), kto_run(db, project)


def judged(db: Any, scene: Any, factory: Any, url: str) -> Any:
    """A comparison whose answers were drawn, before it is finished."""
    project = scene[0]
    bot = suite_version(factory, project, "support-bot", num_samples=40)
    for number in range(40):
        data = {"id": str(number), "input": f"Ask {number}?"}
        category = "returns" if number < 30 else "delivery"
        factory.add(SuiteSample(version_id=bot.id, number=number, sample_id=str(number), category=category, data=data))
    endpoint = factory.add(Endpoint(project_id=project.id, name="our judge", kind="judge", url=url, model="m"))
    comparison, job = evaluating(db, scene, factory, {"primary": str(bot.id), "judge": str(endpoint.id)})
    heldout_files(job)
    for arm in ("reference", "dpo-0", "kto_all-0", "kto_paired-0"):
        suite_results(factory, job, bot, arm, 0.5, text=f"Good answer of {arm[:3]}" + ", at length" * (arm[0] == "k"))
    job.status, job.attempt = "running", 1
    db.flush()
    return comparison, job


def prefers_kto(body: dict[str, Any], _number: int) -> Any:
    text = body["messages"][-1]["content"]
    return chat_reply('{"winner": "A"}' if text.index("of kto") < text.index("of dpo") else '{"winner": "B"}')


def test_the_judge_sees_both_orders_and_is_asked_once(db: Any, scene: Any, factory: Any, sign_in: Any) -> None:
    with serving(prefers_kto) as server:
        comparison, job = judged(db, scene, factory, server.url)
        finish(job.id)
        assert len(server.bodies) == 80
    decision = reloaded(db, comparison).decision
    assert decision is not None
    judge = decision["evidence"]["judge"]
    assert judge["raw"]["value"] == 1.0
    assert (judge["num_prompts"], judge["num_failed"], judge["inconsistency"]) == (40, 0, 0.0)
    assert [item["category"] for item in judge["by_category"]] == ["returns", "delivery"]
    assert judge["controlled"]["value"] is None, "every answer of KTO is longer by the same"
    assert [row.name for row in judge_rows(judge)] == ["All", "returns", "delivery"]
    assert judge_words(judge).startswith("40 prompts, ties count half.")
    assert db.scalar(select(func.count()).select_from(JudgeVerdict)) == 80
    page = sign_in(scene[1]).get(f"/p/{scene[0].slug}/evaluations/{scene[2].id}/comparison").text
    assert "Judge, by category" in page
    assert "contradicted itself on 0" in page


def test_a_judge_that_reads_only_the_first_answer_says_nothing(db: Any, scene: Any, factory: Any) -> None:
    with serving(lambda _body, _number: chat_reply('{"winner": "A"}')) as server:
        comparison, job = judged(db, scene, factory, server.url)
        finish(job.id)
    decision = reloaded(db, comparison).decision
    assert decision is not None
    judge = decision["evidence"]["judge"]
    assert (judge["raw"]["value"], judge["inconsistency"]) == (0.5, 1.0)


def test_a_judge_that_refuses_costs_only_its_own_card(db: Any, scene: Any, factory: Any, sign_in: Any) -> None:
    with serving(lambda _body, _number: (401, {}, b"{}")) as server:
        comparison, job = judged(db, scene, factory, server.url)
        finish(job.id)
    comparison = reloaded(db, comparison)
    assert comparison.status == "succeeded"
    assert comparison.decision is not None
    assert "refused" in comparison.decision["evidence"]["judge"]["error"]
    page = sign_in(scene[1]).get(f"/p/{scene[0].slug}/evaluations/{scene[2].id}/comparison").text
    assert "The judge gave no usable answer." in page
