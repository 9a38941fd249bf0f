"""Import a whole file within the caller's transaction: for small files of the product's own, tests and the demo.

Everyone else's files go the long way of ``app.feedback.imports``: draft, staging, publishing.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.audit import record
from app.feedback.imports.counting import Outcome, Tally, chunks, why_nothing
from app.feedback.imports.formats import checked_rows, detect
from app.feedback.imports.reading import opened, refuse
from app.feedback.imports.records import FORM
from app.feedback.imports.values import Options
from app.feedback.service import ingest
from app.models import Import, Project, User


def printable(name: str) -> str:
    """A file's name as it may be shown and stored."""
    cleaned = "".join(char for char in Path(name).name if char.isprintable() and not "\ud800" <= char <= "\udfff")
    return cleaned[:200] or "feedback.jsonl"


def lock_imports(db: Session, project_id: int) -> None:
    """One import is published at a time: two of the same file would lock the same texts in different order."""
    db.execute(select(func.pg_advisory_xact_lock(func.hashtext("import"), project_id)))


def import_file(
    db: Session,
    project: Project,
    file: Path | str | BinaryIO,
    *,
    filename: str = "",
    source: str = "import",
    user: User | None = None,
) -> Import:
    """Read ``file`` (any format of ``imports.formats``, gzip or not; a path or a seekable binary stream) into ``project``.

    Returns the stored ``Import`` with its counts and its first 1,000 rejected rows. Everything happens in one savepoint:
    nobody sees a part of it, and after an error nothing of it is there.
    Raises InvalidError where the file is none that can be read or holds no good row, TooLargeError where it is too big.
    """
    name = filename or (Path(file).name if isinstance(file, (str, Path)) else "feedback.jsonl")
    chosen = detect(Path(file) if isinstance(file, str) else file, name)
    tally, outcome = Tally(), Outcome()
    with db.begin_nested(), opened(file, name) as opened_file:
        lock_imports(db, project.id)
        for chunk in chunks(checked_rows(opened_file, chosen, Options()), tally):
            if chunk.items:
                outcome.add(chunk.lines, ingest(db, project, chunk.items, source, from_file=True), tally)
        if (words := why_nothing(tally)) is not None:
            refuse(words, f"Needed: {FORM}.")
        entry = Import(
            project_id=project.id,
            filename=printable(name),
            source=source,
            format=chosen.name,
            size_bytes=opened_file.size,
            bytes_read=opened_file.size,
            num_rows=tally.num_rows,
            num_created=outcome.created,
            num_updated=outcome.updated,
            num_duplicate=outcome.duplicate,
            num_published=tally.num_rows - tally.num_rejected,
            num_rejected=tally.num_rejected,
            rejected=sorted(tally.rejected, key=lambda row: row["line"]),
            created_by=user.id if user else None,
        )
        db.add(entry)
        db.flush()
        record_import(db, entry)
    return entry


def record_import(db: Session, entry: Import) -> None:
    record(
        db,
        "feedback.imported",
        project_id=entry.project_id,
        user_id=entry.created_by,
        subject=entry.filename,
        created=entry.num_created,
        updated=entry.num_updated,
        duplicate=entry.num_duplicate,
        rejected=entry.num_rejected,
    )
