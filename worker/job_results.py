"""From what an evaluation job drew to rows: every answer checked, an arm's figures on each suite, the pair's difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from app.evaluations import refusal_audit, suites
from app.evaluations.service import storable
from app.models import EvalJob, SuiteResult, SuiteSampleResult, SuiteVersion
from worker.alignment.evaluate_files import read_lines
from worker.alignment.evaluation.refusals import classify
from worker.alignment.evaluation.suites.checks import SampleScore, combine, run_checks
from worker.alignment.evaluation.suites.format import Suite, SuiteSample
from worker.alignment.evaluation.suites.scoring import Answer, summarise
from worker.job_canaries import leaks_of
from worker.job_spec import job_folder, versions_of

REFERENCE = "reference"
GUARD = "guard"
"""Type of the check that a guard model made: with one, the rules' checks count nowhere."""
_BATCH_ROWS = 1_000
Judge = Callable[[Suite, Sequence["Checked"]], list["Checked"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One drawn answer with its checks."""

    number: int
    """Of the sample in its suite version."""
    repeat: int
    sample: SuiteSample
    text: str
    truncated: bool
    score: SampleScore
    refusal: str | None
    error: str

    @property
    def answer(self) -> Answer:
        return Answer(
            sample=self._request or str(self.number),
            category=self.sample.category,
            score=self.score.score,
            passed=self.score.passed,
            refusal=self.refusal,
        )

    @property
    def _request(self) -> str:
        """Of a disguised sample and of its plain one: they are one unit, as several answers to one sample are."""
        told, request = self.sample.metadata, self.sample.metadata.get("request")
        ours = isinstance(request, str) and ("transform" in told or request == self.sample.id)
        return f"request {request}" if ours else ""

    @property
    def asked(self) -> tuple[int, int, str, str]:
        """As ``job_canaries`` reads it."""
        return self.number, self.repeat, "\n".join(message["content"] for message in self.sample.input), self.text

    def with_checks(self, score: SampleScore) -> Checked:
        return replace(self, score=score, error=self.error or score.error)


def check_lines(suite: Suite, lines: Sequence[dict[str, Any]]) -> list[Checked]:
    """Lines of a samples file, whose ``sample`` is the number in the suite, in the suite's order."""
    found = [_checked(suite, line) for line in lines if str(line["sample"]).isdecimal()]
    return sorted((item for item in found if item is not None), key=lambda item: (item.number, item.repeat))


def _checked(suite: Suite, line: dict[str, Any]) -> Checked | None:
    number = int(line["sample"])
    if number >= len(suite.samples):
        return None
    sample, text, error = suite.samples[number], str(line["text"]), str(line.get("error", ""))
    score = combine(()) if error else run_checks(sample, suite.header, text)
    return Checked(
        number=number,
        repeat=int(line["index"]),
        sample=sample,
        text=text,
        truncated=bool(line["truncated"]),
        score=score,
        refusal=None if error else classify(text),
        error=error or score.error,
    )


def record_results(db: Session, job: EvalJob, judge: Judge | None = None) -> dict[str, Any]:
    """Check and store everything that was drawn so far; a second call replaces the first one's rows.

    Returns {"num_answers", "num_missing", "num_errors"} over all arms and suites.
    """
    folder = job_folder(job)
    told = {"num_answers": 0, "num_missing": 0, "num_errors": 0}
    names = [arm["name"] for arm in job.plan["arms"]]
    for version in versions_of(db, job):
        suite = suites.load(db, version)
        expected = len(suite.samples) * suite.header.sampling.n
        answers: dict[str, list[Answer]] = {}
        for name in sorted(names, key=lambda name: name != REFERENCE):
            checked = _read(folder, name, version, suite)
            told["num_missing"] += expected - len(checked)
            if not checked:
                continue
            checked = judge(suite, checked) if judge else checked
            told["num_answers"] += len(checked)
            told["num_errors"] += sum(bool(item.error) for item in checked)
            answers[name] = [item.answer for item in checked]
            reference = answers.get(REFERENCE) if name != REFERENCE else None
            arm = next(item for item in job.plan["arms"] if item["name"] == name)
            summary = summarise(answers[name], suite.header.kind, reference) | _guard_counts(checked)
            summary |= leaks_of(db, job, arm, [item.asked for item in checked if item.text])
            _store(db, job, version, name, checked, summary)
    return told


def _guard_counts(checked: Sequence[Checked]) -> dict[str, Any]:
    """How often a guard spoke, failed, and said another thing than the rules; {} without one."""
    counts = {"num_judged": 0, "num_failed": 0, "num_differ": 0}
    for item in checked:
        verdicts = [check for check in item.score.checks if check.type == GUARD]
        for verdict in verdicts:
            rules = [check.passed for check in item.score.checks if check.type != GUARD]
            counts["num_judged"] += verdict.passed is not None
            counts["num_failed"] += verdict.passed is None
            counts["num_differ"] += (
                None not in (verdict.passed, *rules) and bool(rules) and all(rules) != verdict.passed
            )
    return {GUARD: counts} if counts["num_judged"] + counts["num_failed"] else {}


def _read(folder: Path, arm: str, version: SuiteVersion, suite: Suite) -> list[Checked]:
    return check_lines(suite, read_lines(folder / "samples" / arm / f"{version.content_hash}.jsonl"))


def _store(
    db: Session, job: EvalJob, version: SuiteVersion, arm: str, checked: Sequence[Checked], summary: dict[str, Any]
) -> None:
    mine = (SuiteResult.job_id == job.id, SuiteResult.suite_version_id == version.id, SuiteResult.arm == arm)
    kept = _kept_labels(
        db,
        db.scalar(select(SuiteResult).where(*mine).with_for_update().execution_options(populate_existing=True)),
        checked,
    )
    db.execute(delete(SuiteResult).where(*mine))
    plan = next(item for item in job.plan["arms"] if item["name"] == arm)
    result = SuiteResult(
        project_id=job.project_id,
        job_id=job.id,
        suite_version_id=version.id,
        arm=arm,
        checkpoint_id=plan.get("checkpoint_id"),
        summary=summary | kept,
    )
    db.add(result)
    db.flush()
    rows = [_row(result.id, item) for item in checked]
    for start in range(0, len(rows), _BATCH_ROWS):
        db.execute(insert(SuiteSampleResult), rows[start : start + _BATCH_ROWS])


def _kept_labels(db: Session, before: SuiteResult | None, checked: Sequence[Checked]) -> dict[str, Any]:
    """A person's labels of answers that read the same as when they were labelled."""
    labels = before.summary.get(refusal_audit.KEY, {}) if before else {}
    if before is None or not labels:
        return {}
    query = select(SuiteSampleResult.number, SuiteSampleResult.repeat, SuiteSampleResult.text)
    texts = {
        (number, repeat): text
        for number, repeat, text in db.execute(query.where(SuiteSampleResult.result_id == before.id))
    }
    same = {
        f"{item.number}-{item.repeat}"
        for item in checked
        if texts.get((item.number, item.repeat)) == storable(item.text)
    }
    kept = {key: label for key, label in labels.items() if key in same}
    return {refusal_audit.KEY: kept} if kept else {}


def _row(result_id: int, item: Checked) -> dict[str, Any]:
    return {
        "result_id": result_id,
        "number": item.number,
        "repeat": item.repeat,
        "text": storable(item.text),
        "truncated": item.truncated,
        "score": item.score.score,
        "passed": item.score.passed,
        "checks": [check.to_json() | {"detail": storable(check.detail)} for check in item.score.checks],
        "refusal": item.refusal,
        "error": storable(item.error) or None,
    }
