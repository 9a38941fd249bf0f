"""The launch form offers the project's diversity suites."""

from __future__ import annotations

from sqlalchemy import select

from app.models import Run, Suite, SuiteVersion
from tests.runs.conftest import Bench
from tests.runs.test_pages import typed


def add_suite(bench: Bench, name: str = "Wide", kind: str = "diversity") -> SuiteVersion:
    suite = Suite(project_id=bench.project.id, name=name, kind=kind)
    bench.db.add(suite)
    bench.db.flush()
    version = SuiteVersion(
        project_id=bench.project.id, suite_id=suite.id, content_hash=f"{name}-{kind}".encode().hex(), header={}, num_samples=661
    )  # fmt: skip
    bench.db.add(version)
    bench.db.flush()
    suite.head_id = version.id
    bench.db.flush()
    return version


def test_diversity_prompts_are_chosen_from_the_projects_suites(bench, page, root):
    version, other = add_suite(bench), add_suite(bench, "Rules", "eval")
    text = page.get(f"{root}/new").text
    assert f'<option value="{version.content_hash}">Wide, 661 prompts</option>' in text
    assert other.content_hash not in text
    assert 'value="True" checked' in text
    refused = page.post(root, data=typed(bench, diversity_suite=other.content_hash))
    assert refused.status_code == 422
    assert "there is no diversity suite" in refused.text
    chosen = {"diversity_suite": version.content_hash, "pause_on_alarm": "False", "prompts_per_category": "3"}
    page.post(root, data=typed(bench, **chosen))
    run = bench.db.scalars(select(Run)).one()
    assert run.config["evaluation"]["diversity_suite"] == version.content_hash
    assert run.config["evaluation"]["pause_on_alarm"] is False
    add_suite(bench, "Newer")
    version.suite.head_id = None
    bench.db.flush()
    clone = page.get(f"{root}/new?clone={run.id}").text
    assert f'<option value="{version.content_hash}" selected>Wide, version {version.content_hash[:8]}</option>' in clone
    assert 'value="True" checked' not in clone
