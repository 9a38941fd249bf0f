"""What other domains and the command line use of datasets."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import NotFoundError
from app.core.pagination import Page, page_of
from app.core.storage import artifact_path
from app.datasets import files
from app.datasets import freeze as freezing
from app.datasets.freeze import Frozen
from app.datasets.readiness import Readiness, readiness, weights_band
from app.datasets.splits import SIDES
from app.models import Project, Run, Snapshot, User

__all__ = [
    "Frozen",
    "Readiness",
    "find_snapshot",
    "freeze",
    "freeze_or_find",
    "latest_snapshot",
    "list_snapshots",
    "readiness",
    "runs_of",
    "snapshot_file",
    "snapshot_folder",
    "verify",
    "weights_band",
]

MIN_PREFIX = 8


def freeze(db: Session, project: Project, user: User | None = None) -> Snapshot:
    """The snapshot of the labels as they are now; the existing one where the content was frozen before.

    Raises InvalidError (no labels, one class, too few, an empty split) and UnavailableError (no space), leaving nothing.
    """
    return freezing.freeze(db, project, user).snapshot


def freeze_or_find(db: Session, project: Project, user: User | None = None) -> Frozen:
    """As ``freeze``, with ``is_new``."""
    return freezing.freeze(db, project, user)


def find_snapshot(db: Session, project: Project, digest: str) -> Snapshot:
    """By hash or its first 8 or more characters. Raises NotFoundError, also for another project's."""
    if len(digest) >= MIN_PREFIX and digest.isalnum():
        query = select(Snapshot).where(
            Snapshot.project_id == project.id, Snapshot.content_hash.startswith(digest, autoescape=True)
        )
        found = db.scalars(query.limit(2)).all()
        if len(found) == 1:
            return found[0]
    raise NotFoundError("There is no such snapshot.", remedy="Choose one from the list of snapshots.")


def list_snapshots(db: Session, project: Project, before_id: int | None = None, limit: int = 30) -> Page[Snapshot]:
    """Newest first."""
    query = select(Snapshot).where(Snapshot.project_id == project.id)
    if before_id is not None:
        query = query.where(Snapshot.id < before_id)
    rows = db.scalars(query.order_by(Snapshot.id.desc()).limit(limit + 1)).all()
    return page_of(rows, limit, lambda snapshot: snapshot.id)


def latest_snapshot(db: Session, project: Project) -> Snapshot | None:
    return next(iter(list_snapshots(db, project, limit=1).rows), None)


def runs_of(db: Session, snapshot: Snapshot) -> list[Run]:
    """The newest 20 runs on this snapshot."""
    query = select(Run).where(Run.project_id == snapshot.project_id, Run.snapshot_id == snapshot.id)
    return list(db.scalars(query.order_by(Run.id.desc()).limit(20)))


def snapshot_folder(snapshot: Snapshot) -> Path:
    return artifact_path(snapshot.path)


def snapshot_file(snapshot: Snapshot, name: str) -> Path:
    """One of the snapshot's files. Raises NotFoundError for any other name, and where the file is gone."""
    names = {files.file_name(side) for side in SIDES} | {"manifest.json"}
    path = snapshot_folder(snapshot) / name if name in names else None
    if path is None or not path.is_file():
        raise NotFoundError("There is no such file in this snapshot.")
    return path


def verify(snapshot: Snapshot) -> list[str]:
    """Hash the files again: problems in words, empty when the snapshot is whole."""
    return files.problems_in(snapshot_folder(snapshot), snapshot.content_hash)
