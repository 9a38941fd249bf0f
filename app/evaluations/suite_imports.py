"""Suites from files, and the safety suites that come with the product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.errors import ConflictError, InvalidError
from app.evaluations import suites
from app.models import Project, Suite, SuiteVersion, User
from worker.alignment.evaluation.safety.builtin import HARMFUL, OVER_REFUSAL, builtin_suite
from worker.alignment.evaluation.safety.importers import import_requests
from worker.alignment.evaluation.safety.transforms import transformed
from worker.alignment.evaluation.suites import format as formats
from worker.alignment.evaluation.suites import importers
from worker.alignment.evaluation.suites.problems import SuiteError

IMPORT_FORMATS: tuple[tuple[str, str], ...] = (
    ("suite", "Suite (YAML header, JSON lines)"),
    ("auto", "Told from the file: Inspect, OpenAI evals, promptfoo, IFEval, MT-Bench, lm-eval, questions"),
    ("redteam", "Harmful requests (HarmBench, AdvBench, StrongREJECT shapes)"),
    ("benign", "Harmless requests that look harmful (XSTest shape)"),
)
_MAX_NAMED = 3


def import_suite(
    db: Session,
    project: Project,
    content: bytes,
    samples: bytes | None,
    *,
    format_name: str,
    name: str,
    filename: str,
    user: User | None,
) -> tuple[SuiteVersion, str]:
    """The saved version, and in words what had to be left out. Raises InvalidError with every problem by line."""
    if format_name not in dict(IMPORT_FORMATS):
        raise InvalidError("That format is not known.", fields={"format": "choose one of the list"})
    try:
        if format_name == "suite":
            suite, notes = formats.parse_suite(content, samples), ""
        else:
            suite, notes = _foreign(content, samples, format_name, name.strip() or _stem(filename), filename)
    except SuiteError as error:
        raise suites.invalid(error.problems) from error
    row = db.scalar(select(Suite).where(Suite.project_id == project.id, Suite.name == suite.header.name))
    return suites.save(db, project, suite, user=user, replaces=row), notes


def _foreign(
    content: bytes, samples: bytes | None, format_name: str, name: str, filename: str
) -> tuple[formats.Suite, str]:
    files: dict[str, str | bytes] = {filename: content}
    if samples:
        files["samples"] = samples
    kind: Any = format_name if format_name in {"redteam", "benign"} else None
    if kind is not None:
        found = import_requests(files, name=name, kind=kind)
    else:
        found = importers.import_suite(files, name=name)
    notes = list(found.notes)
    if found.skipped:
        first = "; ".join(str(item) for item in found.skipped[:_MAX_NAMED])
        notes.append(f"{len(found.skipped):,} items were left out: {first}.")
    return found.suite, " ".join(notes)


def _stem(filename: str) -> str:
    stem = filename.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return " ".join(stem.replace("_", " ").split())[:80] or "imported suite"


def install_safety(db: Session, project: Project, *, user: User | None) -> Sequence[SuiteVersion]:
    """The two safety suites written for this product; a second time they are what they were."""
    made = []
    for name in (HARMFUL, OVER_REFUSAL):
        suite = builtin_suite(name)
        row = db.scalar(select(Suite).where(Suite.project_id == project.id, Suite.name == suite.header.name))
        made.append(suites.save(db, project, suite, user=user, replaces=row))
    return made


def add_transforms(db: Session, project: Project, suite: Suite, *, user: User | None) -> SuiteVersion:
    """The head's requests, plain and in every fixed disguise, as the suite ``<name>-transforms``; a second time it follows.

    Raises ConflictError for a suite that is no red-team suite, or is disguised already; InvalidError where it grows too large.
    """
    head = suite.head
    if head is None or suite.kind != "redteam":
        raise ConflictError("Only harmful requests are disguised: this is no red-team suite with a version.")
    plain = suites.load(db, head)
    if any("transform" in sample.metadata for sample in plain.samples):
        raise ConflictError("The requests of this suite are disguised already.")
    made = transformed(plain)
    name = f"{suite.name}-transforms"
    named = replace(made, header=replace(made.header, name=name))
    try:
        checked = formats.from_canonical(formats.canonical(named))
    except SuiteError as error:
        raise suites.invalid(error.problems) from error
    row = db.scalar(select(Suite).where(Suite.project_id == project.id, Suite.name == name))
    if row is not None and row.kind != "redteam":
        raise ConflictError(f"{name} is another suite’s name already.", remedy="Rename that one.")  # noqa: RUF001
    return suites.save(db, project, checked, user=user, replaces=row)


def safety_installed(db: Session, project: Project) -> bool:
    query = select(func.count(Suite.id)).where(Suite.project_id == project.id, Suite.archived_at.is_(None))
    return (db.scalar(query.where(Suite.kind.in_(("redteam", "benign")))) or 0) >= len((HARMFUL, OVER_REFUSAL))
