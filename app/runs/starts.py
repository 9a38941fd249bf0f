"""What a run may go on from: the base model, or a version of the project that was trained on the same base model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload

from app.core.errors import InvalidError
from app.core.storage import artifact_path
from app.models import Checkpoint, ModelVersion, Project
from worker.alignment.config import AlignmentConfig

MAX_OFFERED = 50
_NAME = re.compile(r"v([1-9]\d{0,8})", re.ASCII)


def _versions(project_id: int) -> Select[ModelVersion]:
    return (
        select(ModelVersion)
        .join(ModelVersion.checkpoint)
        .options(joinedload(ModelVersion.run), joinedload(ModelVersion.checkpoint))
        .where(ModelVersion.project_id == project_id, Checkpoint.removed_at.is_(None))
        .order_by(ModelVersion.number.desc())
    )


def list_starts(db: Session, project: Project) -> Sequence[ModelVersion]:
    """Versions whose files are kept, newest first."""
    return db.scalars(_versions(project.id).limit(MAX_OFFERED)).all()


def choice(version: ModelVersion) -> dict[str, str]:
    """{"value", "text", "base"} of an option; ``base`` is the base model's folder name, by which the page filters."""
    name: str = version.run.config["base_model"]
    text = f"v{version.number}: {version.run.name}, step {version.checkpoint.step:,}"
    return {"value": f"v{version.number}", "text": text, "base": name.rstrip("/").rsplit("/", 1)[-1]}


def find_start(db: Session, project_id: int, config: AlignmentConfig) -> ModelVersion | None:
    """The version that ``config.init_adapter`` names, None for the base model. Raises InvalidError naming the field."""
    if not config.init_adapter:
        return None
    named = _NAME.fullmatch(config.init_adapter)
    version = db.scalar(_versions(project_id).where(ModelVersion.number == int(named[1]))) if named else None
    if version is None:
        raise _refused(f"there is no version {config.init_adapter[:20]}; choose one such as v1, or the base model")
    if version.run.config["base_model"] != config.base_model:
        raise _refused(f"{config.init_adapter} was trained on another base model; choose that one, or another version")
    if not artifact_path(version.checkpoint.path).is_dir():
        raise _refused(f"the files of {config.init_adapter} are gone; choose another version")
    return version


def _refused(text: str) -> InvalidError:
    return InvalidError("A version to start from does not fit.", fields={"init_adapter": text})
