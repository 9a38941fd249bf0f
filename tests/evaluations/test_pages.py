from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.models import Role
from tests.evaluations.support import checkpoint_of, estimate, evaluation_in, heldout, result, run_in


@pytest.fixture
def lead(factory: Any, sign_in: Any) -> Any:
    project = factory.project()
    return project, sign_in(factory.member(project, Role.LEAD))


def test_a_project_without_evaluations_says_what_comes(lead: Any, factory: Any) -> None:
    project, client = lead
    page = client.get(f"/p/{project.slug}/evaluations")
    assert page.status_code == 200
    assert "No evaluations yet" in page.text
    run = run_in(factory, project, status="running")
    for part in ("", "/diversity", "/diversity/table", "/completions"):
        page = client.get(f"/p/{project.slug}/evaluations/{run.id}{part}")
        assert page.status_code == 200
        assert "No checkpoint is evaluated yet" in page.text


def test_every_page_shows_the_figures(lead: Any, factory: Any, tmp_path: Path) -> None:
    project, client = lead
    run = run_in(factory, project)
    for step in (10, 20, 30):
        evaluation_in(factory, run, checkpoint_of(factory, run, step), tmp_path)
    root = f"/p/{project.slug}/evaluations"
    listed = client.get(root).text
    assert run.name in listed
    assert "0.680" in listed
    overview = client.get(f"{root}/{run.id}").text
    assert "better than chance: AUC within the prompt 0.680 with 0.620\u20130.740." in overview
    assert "length alone" in overview
    assert overview.count("Show as table") == 6
    diversity = client.get(f"{root}/{run.id}/diversity").text
    assert 'class="hm-p1 crisp"' in diversity
    assert diversity.index(">weather") < diversity.index(">greeting"), "the larger effect comes first"
    completions = client.get(f"{root}/{run.id}/completions?step=20").text
    assert "**policy** says 0" in completions
    assert "&lt;b&gt;" in completions
    assert "<b>0" not in completions


def test_the_diversity_table_searches_and_sorts_by_address(lead: Any, factory: Any, tmp_path: Path) -> None:
    project, client = lead
    run = run_in(factory, project)
    names = tuple(f"topic {index:02d}" for index in range(60))
    evaluation_in(factory, run, checkpoint_of(factory, run), tmp_path, diversity=None)
    second = checkpoint_of(factory, run, 20)
    evaluation_in(factory, run, second, tmp_path, diversity=result(20, names)["diversity"])
    root = f"/p/{project.slug}/evaluations/{run.id}/diversity"
    url = f"{root}/table?step=20"
    page = client.get(f"{url}&sort=name").text
    assert ">topic 00</a>" in page
    assert ">topic 59</a>" not in page
    assert "after=topic+49" in page
    assert ">topic 59</a>" in client.get(f"{url}&sort=name&after=topic+49").text
    found = client.get(f"{url}&q=TOPIC+07").text
    assert ">topic 07</a>" in found
    assert ">topic 08</a>" not in found
    assert "No category matches" in client.get(f"{url}&q=zebra").text
    assert "Diversity was not measured" in client.get(f"{root}?step=10").text
    assert client.get(f"{root}/table?step=11").status_code == 404
    assert client.get(f"{url}&sort=size").status_code == 422


def test_completions_are_paged_by_prompt(lead: Any, factory: Any, tmp_path: Path) -> None:
    project, client = lead
    run = run_in(factory, project)
    names = ("a", "b", "c", "d")
    evaluation_in(factory, run, checkpoint_of(factory, run), tmp_path, diversity=result(10, names)["diversity"])
    url = f"/p/{project.slug}/evaluations/{run.id}/completions"
    first = client.get(url).text
    assert "Prompt 5" in first
    assert "Prompt 6" not in first
    assert "after=4" in first
    second = client.get(f"{url}?after=4").text
    assert "Prompt 6" in second
    assert "Prompt 8" in second
    assert "Next prompts" not in second
    only = client.get(f"{url}?category=c").text
    assert "Prompt 5" in only
    assert "Prompt 1" not in only


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auc_within_prompt": estimate(0.53, 0.44, 0.62)}, "No evidence that the reward ranks"),
        ({"auc_within_prompt": estimate(0.4, 0.35, 0.45)}, "ranks undesirable above desirable"),
        ({"auc_within_prompt": estimate(0.7, None, None, 6)}, "No evidence either way"),
        ({"auc_within_prompt": estimate(None)}, "better than chance: pooled AUC 0.740"),
        ({"auc_within_prompt": estimate(None), "auc": estimate(None)}, "holds one class only"),
    ],
)
def test_the_sentence_claims_no_more_than_the_interval(
    lead: Any, factory: Any, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    project, client = lead
    run = run_in(factory, project)
    evaluation_in(factory, run, checkpoint_of(factory, run), tmp_path, heldout=heldout(**changes))
    assert words in client.get(f"/p/{project.slug}/evaluations/{run.id}").text


def test_nobody_sees_another_project(factory: Any, sign_in: Any, tmp_path: Path) -> None:
    ours, theirs = factory.project(), factory.project()
    run = run_in(factory, theirs)
    evaluation_in(factory, run, checkpoint_of(factory, run), tmp_path)
    client = sign_in(factory.member(ours, Role.OWNER))
    for part in ("", "/diversity", "/diversity/table", "/completions"):
        assert client.get(f"/p/{ours.slug}/evaluations/{run.id}{part}").status_code == 404
        assert client.get(f"/p/{theirs.slug}/evaluations/{run.id}{part}").status_code == 404
    assert run.name not in client.get(f"/p/{ours.slug}/evaluations").text


def test_annotators_have_no_evaluations(factory: Any, sign_in: Any) -> None:
    project = factory.project()
    client = sign_in(factory.member(project, Role.ANNOTATOR))
    assert client.get(f"/p/{project.slug}/evaluations").status_code == 403
