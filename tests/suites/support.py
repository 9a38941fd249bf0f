"""Suites, jobs, results and endpoints for tests."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.orm import Session

from app.evaluations import jobs, suites
from app.models import Checkpoint, Endpoint, EvalJob, Project, SuiteResult, SuiteVersion, User
from worker.alignment.evaluation.suites.format import Suite
from worker.job_results import record_results
from worker.job_spec import job_folder, versions_of

HEADER = """name: answers
kind: eval
sampling: {n: 2, max_tokens: 4}
checks:
  - {type: contains, value: cat}
"""
SAMPLES = "".join(
    json.dumps({"id": f"s{number}", "input": f"the cat {number}", "category": ("small", "large")[number % 2]}) + "\n"
    for number in range(12)
)


def version_in(
    db: Session, project: Project, user: User | None = None, *, kind: str = "eval", name: str = "answers"
) -> SuiteVersion:
    header = HEADER.replace("kind: eval", f"kind: {kind}").replace("name: answers", f"name: {name}")
    if kind in {"redteam", "benign"}:
        header = header.partition("checks:")[0]
    return suites.save_text(db, project, header, SAMPLES, user=user)


def lines(suite: Suite, text: str = "a cat <b>sat</b>", every: int = 1) -> list[dict[str, Any]]:
    """What a child would have drawn; every so many-th answer is ``text``, the others hold no cat."""
    return [
        {
            "sample": str(number),
            "index": index,
            "text": text if number % every == 0 else "I am sorry, but I cannot help with that.",
            "num_tokens": 4,
            "truncated": False,
        }
        for number in range(len(suite.samples))
        for index in range(suite.header.sampling.n)
    ]


def job_in(
    db: Session, project: Project, checkpoint: Checkpoint, *versions: SuiteVersion, user: User | None = None
) -> EvalJob:
    return jobs.start_suites(db, project, checkpoint=checkpoint, versions=versions, judge_id=None, user=user)


def draw(db: Session, job: EvalJob, **every: int) -> None:
    """Write the files of a finished child; ``every`` by arm as ``lines`` takes it."""
    folder = job_folder(job)
    for version in versions_of(db, job):
        suite = suites.load(db, version)
        for arm in job.plan["arms"]:
            path = folder / "samples" / arm["name"] / f"{version.content_hash}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = lines(suite, every=every.get(arm["name"], 1))
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def finished(db: Session, job: EvalJob, **every: int) -> list[SuiteResult]:
    draw(db, job, **every)
    job.result = record_results(db, job)
    job.status = "succeeded"
    db.flush()
    return list(db.query(SuiteResult).filter(SuiteResult.job_id == job.id).order_by(SuiteResult.id))


def endpoint_in(db: Session, project: Project, **changes: Any) -> Endpoint:
    row = Endpoint(
        project_id=project.id,
        **({"name": "judge", "kind": "judge", "url": "https://judge.example.org/v1", "model": "j"} | changes),
    )
    db.add(row)
    db.flush()
    return row


def suite_rows(db: Session, project: Project, user: User, checkpoint: Checkpoint) -> dict[str, int]:
    """A row of every kind, and how they are called in addresses."""
    version = version_in(db, project, user)
    job = job_in(db, project, checkpoint, version, user=user)
    result = finished(db, job, policy=2)[-1]
    report = EvalJob(
        project_id=project.id,
        kind=jobs.REPORT,
        title="garak",
        run_id=checkpoint.run_id,
        checkpoint_id=checkpoint.id,
        plan={"tool": "garak", "filename": "report.jsonl", "arms": [], "suite_versions": []},
        status="succeeded",
        result={"target": "", "probes": [], "failures": [], "errors": [], "num_errors": 0},
    )
    db.add(report)
    db.flush()
    return {
        "report_id": report.id,
        "suite_id": version.suite_id,
        "job_id": job.id,
        "result_id": result.id,
        "endpoint_id": endpoint_in(db, project).id,
    }
