"""Suites whose prompts a run samples for diversity at its checkpoints, named by the content hash of a version."""

from __future__ import annotations

import json
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import InvalidError
from app.models import Project, Suite, SuiteSample, SuiteVersion
from app.web.formats import plural

DEV_SPLIT = ("", "Those of the dev split")
NO_CATEGORY = "uncategorised"


def choices(db: Session, project: Project, chosen: str) -> list[tuple[str, str]]:
    """(content hash, words) of each diversity suite's head version, and of ``chosen`` where that is another one."""
    heads = select(Suite.name, SuiteVersion).join(SuiteVersion, Suite.head_id == SuiteVersion.id)
    mine = (Suite.project_id == project.id, Suite.kind == "diversity", Suite.archived_at.is_(None))
    rows = db.execute(heads.where(*mine).order_by(Suite.name)).all()
    found = [(version.content_hash, f"{name}, {plural(version.num_samples, 'prompt')}") for name, version in rows]
    if chosen and chosen not in dict(found):
        version = _version(db, project.id, chosen)
        words = f"{version.suite.name}, version {chosen[:8]}" if version else f"{chosen[:8]}, which is gone"
        found.append((chosen, words))
    return [DEV_SPLIT, *found]


def find_version(db: Session, project_id: int, content_hash: str) -> SuiteVersion | None:
    """None for the dev split's prompts. Raises InvalidError naming the form's field where there is no such version."""
    if not content_hash:
        return None
    version = _version(db, project_id, content_hash)
    if version is None:
        text = f"there is no diversity suite {content_hash[:12]} in this project; choose another, or the dev split"
        raise InvalidError("A suite does not fit.", fields={"diversity_suite": text})
    return version


def prompt_lines(db: Session, version: SuiteVersion) -> Iterator[str]:
    """JSON lines as ``TrainSpec.diversity_prompts`` wants them, in the order of the suite."""
    samples = select(SuiteSample.data).where(SuiteSample.version_id == version.id).order_by(SuiteSample.number)
    for data in db.scalars(samples):
        line = {"category": data.get("category") or NO_CATEGORY, "messages": data["input"]}
        metadata = data.get("metadata") or {}
        line |= {name: metadata[name] for name in ("domain", "open_ended") if name in metadata}
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _version(db: Session, project_id: int, content_hash: str) -> SuiteVersion | None:
    return db.scalar(
        select(SuiteVersion)
        .join(SuiteVersion.suite)
        .where(
            SuiteVersion.project_id == project_id,
            SuiteVersion.content_hash == content_hash,
            Suite.kind == "diversity",
        )
        .order_by(SuiteVersion.id.desc())
        .limit(1)
    )
