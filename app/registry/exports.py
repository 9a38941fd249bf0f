"""A version as files to take away: asked for here, made by the worker, streamed as a tar archive."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.accounts.audit import record
from app.core.errors import NotFoundError, UnavailableError
from app.core.queue import enqueue
from app.core.storage import artifact_path
from app.models import Export, ModelVersion, User
from app.registry.keeping import keep_files

KINDS = {"adapter": "Adapter", "merged": "Merged model"}
OPEN = ("queued", "running")
TASK = "worker.tasks.export.export_version"
_CHUNK_BYTES = 1 << 20
_BLOCK = 512


def request_export(db: Session, *, version: ModelVersion, kind: str, user: User | None) -> Export:
    """Queue an export. One that is ready or under way stays; a refused or failed one is tried again.

    Raises ConflictError where the files of the version's checkpoint are gone.
    """
    if kind not in KINDS:
        raise NotFoundError("There is no such export.")
    keep_files(version.checkpoint)
    fresh: dict[str, Any] = {
        "status": "queued",
        "message": "",
        "report": {},
        "path": None,
        "size_bytes": 0,
        "lease_until": None,
        "finished_at": None,
    }
    export_id = db.scalar(
        upsert(Export)
        .values(project_id=version.project_id, version_id=version.id, kind=kind, **fresh)
        .on_conflict_do_update(
            index_elements=["version_id", "kind"], set_=fresh, where=Export.status.in_(("refused", "failed"))
        )
        .returning(Export.id)
    )
    if export_id is not None:
        enqueue(db, TASK, export_id)
        record(
            db,
            "version.exported",
            project_id=version.project_id,
            user_id=user.id if user else None,
            subject=f"v{version.number}",
            kind=kind,
        )
    return db.scalars(
        select(Export)
        .where(Export.version_id == version.id, Export.kind == kind)
        .execution_options(populate_existing=True)
    ).one()


def exports_of(db: Session, version: ModelVersion) -> dict[str, Export]:
    """By kind."""
    return {row.kind: row for row in db.scalars(select(Export).where(Export.version_id == version.id))}


@dataclass(frozen=True, slots=True)
class Archive:
    filename: str
    size_bytes: int
    chunks: Iterator[bytes]


def open_archive(db: Session, *, project_slug: str, version: ModelVersion, kind: str) -> Archive:
    """The finished export as a tar. Raises NotFoundError while there is none, UnavailableError when its files are gone."""
    export = exports_of(db, version).get(kind)
    if export is None or export.status != "ready" or export.path is None:
        raise NotFoundError("This export is not ready.", remedy="Start it on the Versions page.")
    folder = artifact_path(export.path)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise UnavailableError("The files of this export are gone.", remedy="Check the disk that holds the artifacts.")
    name = f"{project_slug}-v{version.number}-{kind}"
    headers = [_header(f"{name}/{path.relative_to(folder).as_posix()}", path) for path in files]
    size = sum(len(header) + _padded(path.stat().st_size) for header, path in zip(headers, files, strict=True))
    return Archive(f"{name}.tar", size + 2 * _BLOCK, _tar(headers, files))


def _header(name: str, path: Path) -> bytes:
    stat = path.stat()
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = stat.st_size, int(stat.st_mtime), 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _tar(headers: Sequence[bytes], files: Sequence[Path]) -> Iterator[bytes]:
    """A megabyte in memory at a time, however large the model."""
    for header, path in zip(headers, files, strict=True):
        yield header
        sent = 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                sent += len(chunk)
                yield chunk
        yield bytes(_padded(sent) - sent)
    yield bytes(2 * _BLOCK)
