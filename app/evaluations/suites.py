"""Suites of a project: versions by content hash, a head that moves, history. The format is ``worker.alignment.evaluation.suites``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session, joinedload

from app.accounts import audit
from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.models import Completion, Project, Prompt, Suite, SuiteSample, SuiteVersion, User
from worker.alignment.evaluation.suites import format as formats
from worker.alignment.evaluation.suites.problems import Problem, SuiteError

MAX_SHOWN = 20
_BATCH_ROWS = 2_000


def list_suites(db: Session, project: Project, *, archived: bool = False) -> Sequence[Suite]:
    """By name, each with its head."""
    query = select(Suite).options(joinedload(Suite.head)).where(Suite.project_id == project.id)
    hidden = Suite.archived_at.is_not(None) if archived else Suite.archived_at.is_(None)
    return db.scalars(query.where(hidden).order_by(func.lower(Suite.name))).all()


def find_suite(db: Session, project: Project, name: str) -> Suite:
    """Raises NotFoundError."""
    query = select(Suite).options(joinedload(Suite.head)).where(Suite.project_id == project.id, Suite.name == name)
    suite = db.scalar(query) if name.isprintable() else None
    if suite is None:
        raise NotFoundError("There is no such suite in this project.", remedy="Its name may have changed: see Suites.")
    return suite


def find_version(db: Session, project: Project, version_id: int) -> SuiteVersion:
    query = select(SuiteVersion).options(joinedload(SuiteVersion.suite))
    version = db.scalar(query.where(SuiteVersion.project_id == project.id, SuiteVersion.id == version_id))
    if version is None:
        raise NotFoundError("There is no such version of a suite in this project.")
    return version


def history(db: Session, suite: Suite) -> Sequence[SuiteVersion]:
    """Newest first."""
    query = select(SuiteVersion).where(SuiteVersion.suite_id == suite.id)
    return db.scalars(query.order_by(SuiteVersion.id.desc())).all()


def save_text(
    db: Session, project: Project, header: str, samples: str, *, user: User | None, replaces: Suite | None = None
) -> SuiteVersion:
    """Save what was typed. Raises InvalidError with every problem, by source and line."""
    return save(db, project, parsed(header, samples), user=user, replaces=replaces)


def parsed(header: str | bytes, samples: str | bytes | None) -> formats.Suite:
    """Raises InvalidError whose fields ``header`` and ``samples`` list the problems."""
    try:
        return formats.parse_suite(header, samples if samples and samples.strip() else None)
    except SuiteError as error:
        raise invalid(error.problems) from error


def invalid(problems: Sequence[Problem]) -> InvalidError:
    fields = {}
    for source in ("header", "samples"):
        mine = [problem for problem in problems if problem.source == source]
        if mine:
            fields[source] = " ".join(in_words(problem) for problem in mine[:MAX_SHOWN])
            if len(mine) > MAX_SHOWN:
                fields[source] += f" And {len(mine) - MAX_SHOWN} more."
    return InvalidError("The suite cannot be read.", remedy="Nothing was saved.", fields=fields)


def in_words(problem: Problem) -> str:
    place = f"Line {problem.line}" if problem.line else ""
    parts = [part for part in (place, problem.field) if part]
    return f"{', '.join(parts)}: {problem.message}" if parts else problem.message


def save(
    db: Session, project: Project, suite: formats.Suite, *, user: User | None, replaces: Suite | None = None
) -> SuiteVersion:
    """The version of this content, made if it is new; it becomes the head. ``replaces`` is the suite being edited.

    Raises InvalidError where the name is another suite's.
    """
    name = suite.header.name
    row = db.scalar(select(Suite).where(Suite.project_id == project.id, Suite.name == name).with_for_update())
    if row is not None and replaces is not None and row.id != replaces.id:
        raise InvalidError("The suite cannot be saved.", fields={"header": f"name: {name} is another suite's name."})
    if row is not None and replaces is None and row.archived_at is None:
        fields = {"header": f"name: there is a suite {name} already. Edit that one, or choose another name."}
        raise InvalidError("The suite cannot be saved.", fields=fields)
    row = row or replaces
    if row is None:
        row = Suite(project_id=project.id, name=name, kind=suite.header.kind, created_by=user.id if user else None)
        db.add(row)
        db.flush()
    row.name, row.kind, row.archived_at = name, suite.header.kind, None
    version = _version(db, row, suite, user)
    if row.head_id != version.id:
        row.head = version
        subject = f"suite {name}"
        audit.record(
            db,
            "suite.save",
            project_id=project.id,
            user_id=user.id if user else None,
            subject=subject,
            version=version.content_hash,
        )
    db.flush()
    return version


def _version(db: Session, row: Suite, suite: formats.Suite, user: User | None) -> SuiteVersion:
    digest = formats.content_hash(suite)
    found = db.scalar(select(SuiteVersion).where(SuiteVersion.suite_id == row.id, SuiteVersion.content_hash == digest))
    if found is not None:
        return found
    version = SuiteVersion(
        project_id=row.project_id,
        suite_id=row.id,
        content_hash=digest,
        header=suite.header.to_json(),
        num_samples=len(suite.samples),
        created_by=user.id if user else None,
    )
    db.add(version)
    db.flush()
    rows = [
        {
            "version_id": version.id,
            "number": number,
            "sample_id": sample.id,
            "category": sample.category,
            "data": sample.to_json(),
        }
        for number, sample in enumerate(suite.samples)
    ]
    for start in range(0, len(rows), _BATCH_ROWS):
        db.execute(insert(SuiteSample), rows[start : start + _BATCH_ROWS])
    return version


def load(db: Session, version: SuiteVersion) -> formats.Suite:
    """The suite as the library knows it."""
    samples = db.scalars(
        select(SuiteSample.data).where(SuiteSample.version_id == version.id).order_by(SuiteSample.number)
    )
    return formats.from_canonical({"header": version.header, "samples": list(samples)})


def text_of(db: Session, version: SuiteVersion) -> tuple[str, str]:
    """(YAML header, JSON lines), for the editor and for download."""
    return formats.dump(load(db, version))


def archive(db: Session, project: Project, suite: Suite, *, user: User | None, back: bool = False) -> None:
    """Archived suites keep their results and are not offered any more."""
    suite.archived_at = None if back else utcnow()
    action = "suite.restore" if back else "suite.archive"
    audit.record(db, action, project_id=project.id, user_id=user.id if user else None, subject=f"suite {suite.name}")
    db.flush()


def restore_version(db: Session, suite: Suite, version: SuiteVersion, *, user: User | None) -> None:
    """Make an earlier version the head again. Raises ConflictError for a version of another suite."""
    if version.suite_id != suite.id:
        raise ConflictError("That version is of another suite.")
    suite.head = version
    audit.record(
        db,
        "suite.save",
        project_id=suite.project_id,
        user_id=user.id if user else None,
        subject=f"suite {suite.name}",
        version=version.content_hash,
    )
    db.flush()


REGRESSIONS = "regressions"
TOO_ALIKE = 0.8
"""ROUGE-L to the answer that was rated down, from which a new answer counts as the same one."""


def add_completion(db: Session, project: Project, completion_id: int, name: str, *, user: User | None) -> SuiteVersion:
    """The prompt of a real completion becomes a sample of a suite: the chosen one, or a new one of that name.

    The answer that was rated down is kept as metadata, and a check refuses an answer that is nearly the same. Adding it
    twice changes nothing. Raises NotFoundError, InvalidError.
    """
    row = db.execute(
        select(Completion, Prompt)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Completion.project_id == project.id, Completion.id == completion_id)
    ).first()
    if row is None:
        raise NotFoundError("There is no such completion in this project.")
    completion, prompt = row
    name = name.strip() or REGRESSIONS
    suite = db.scalar(select(Suite).where(Suite.project_id == project.id, Suite.name == name).with_for_update())
    before = load(db, suite.head) if suite is not None and suite.head is not None else None
    sample_id = f"completion-{completion.id}"
    kept = [sample.to_json() for sample in before.samples] if before else []
    if any(sample["id"] == sample_id for sample in kept) and suite is not None and suite.head is not None:
        return suite.head
    header: Mapping[str, Any] = before.header.to_json() if before else _regression_header(name)
    kept.append(_regression_sample(sample_id, completion, prompt))
    try:
        made = formats.parse_suite(header, kept)
    except SuiteError as error:
        raise invalid(error.problems) from error
    return save(db, project, made, user=user, replaces=suite)


def _regression_header(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "eval",
        "description": "Prompts whose answers people rated down.",
        "sampling": {"n": 1, "temperature": 0.0},
    }


def _regression_sample(sample_id: str, completion: Completion, prompt: Prompt) -> dict[str, Any]:
    bad = completion.text.strip()[:4000]
    checks = [{"type": "similarity", "value": [bad], "max": TOO_ALIKE}] if bad else [{"type": "word-count", "min": 1}]
    return {
        "id": sample_id,
        "input": prompt.messages,
        "category": prompt.category or "",
        "metadata": {"completion_id": completion.id},
        "checks": checks,
    }
