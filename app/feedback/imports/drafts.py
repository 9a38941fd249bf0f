"""A file that waits to be imported: stored, looked at, mapped, started, cancelled."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.accounts.audit import record
from app.core.clock import utcnow
from app.core.db import after_commit
from app.core.errors import ConflictError, InvalidError, NotFoundError, TooLargeError
from app.core.queue import enqueue
from app.core.storage import artifact_path, require_free_space
from app.feedback.importers import printable
from app.feedback.imports import mapping as columns
from app.feedback.imports.counting import Tally
from app.feedback.imports.formats import checked_rows, columns_of, detect, find_format
from app.feedback.imports.reading import opened
from app.feedback.imports.tables import DELIMITERS, ENCODINGS, csv_dialect
from app.feedback.imports.values import Options
from app.models import Completion, Import, ImportRow, Project, Prompt, User
from app.settings import get_settings

TASK = "worker.tasks.imports.run_import"
OPEN = ("queued", "staging", "publishing")
CANCELLABLE = ("draft", *OPEN)
FIRST_ROWS = 10
LOOK_ROWS = 2000
LOOK_SECONDS = 3.0
DRAFT_DAYS = 7
_COPY_BYTES = 2**20
_SHOWN_CHARS = 400


def get_import(db: Session, project: Project, import_id: int) -> Import:
    """Raises NotFoundError, also for another project's."""
    entry = db.scalar(select(Import).where(Import.project_id == project.id, Import.id == import_id))
    if entry is None:
        raise NotFoundError("There is no such import in this project.")
    return entry


def store_upload(file: BinaryIO) -> tuple[str, int]:
    """Copies the bytes under the artifacts; returns the relative path and the size. Raises TooLargeError."""
    limit = get_settings().max_import_bytes
    relative = f"imports/{uuid4().hex}"
    path = artifact_path(relative)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = file.seek(0, 2)
    file.seek(0)
    if size > limit:
        raise TooLargeError(
            f"The file is larger than {limit / 2**20:,.0f} MiB.",
            remedy="Split it and import the parts, or raise KTO_MAX_IMPORT_BYTES. Nothing was imported.",
        )
    require_free_space(path.parent, size)
    try:
        with path.open("xb") as target:
            shutil.copyfileobj(file, target, _COPY_BYTES)
        path.chmod(0o600)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return relative, size


def make_draft(
    db: Session,
    project: Project,
    file: BinaryIO,
    *,
    filename: str,
    source: str = "import",
    format_name: str = "",
    options: Options | None = None,
    user: User | None = None,
) -> Import:
    """Store the file and look at its first rows. Raises InvalidError for one that cannot be read; then nothing is kept."""
    relative, size = store_upload(file)
    try:
        path = artifact_path(relative)
        chosen = find_format(format_name) if format_name else detect(path, filename)
        entry = Import(
            project_id=project.id,
            filename=printable(filename),
            source=source,
            status="draft",
            format=chosen.name,
            options=(options or Options()).as_dict(),
            path=relative,
            size_bytes=size,
            created_by=user.id if user else None,
        )
        if chosen.has_columns and not entry.options.get("mapping"):
            guessed = columns.guess(columns_of(path, chosen, Options.of(entry.options), filename))
            entry.options = entry.options | {"mapping": guessed}
        look(entry)
        db.add(entry)
        db.flush()
    except BaseException:
        artifact_path(relative).unlink(missing_ok=True)
        raise
    return entry


def look(entry: Import) -> None:
    """The dry run: the first rows as they would be stored, and what is wrong with others; of a large file its beginning."""
    assert entry.path is not None
    path, chosen, options = artifact_path(entry.path), find_format(entry.format), Options.of(entry.options)
    tally = Tally()
    shown: list[dict[str, Any]] = []
    started, whole = time.monotonic(), True
    names = columns_of(path, chosen, options, entry.filename)
    with opened(path, entry.filename) as source:
        for line, found in checked_rows(source, chosen, options):
            tally.num_rows += 1
            if isinstance(found, str):
                tally.reject(line, found)
            elif len(shown) < FIRST_ROWS:
                shown.append({"line": line, **_shortened(found.model_dump(mode="json", exclude_defaults=True))})
            if tally.num_rows >= LOOK_ROWS or time.monotonic() - started > LOOK_SECONDS:
                whole = False
                break
    entry.preview = {
        "columns": names,
        "rows": shown,
        "looked_at": tally.num_rows,
        "num_rejected": tally.num_rejected,
        "rejected": tally.rejected,
        "whole": whole,
        **_dialect(path, chosen.name, options),
    }


def _dialect(path: Path, name: str, options: Options) -> dict[str, str]:
    if name != "csv":
        return {}
    with opened(path) as source:
        stream: Any = source.stream
        encoding, delimiter = csv_dialect(stream.peek(65536), options)
    return {"encoding": encoding, "delimiter": delimiter}


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "…"
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in islice(value.items(), 50)}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value[-6:]]
    return value


def change_draft(db: Session, entry: Import, form: Mapping[str, str]) -> None:
    """Another format, mapping or choice, and a new look. Raises InvalidError with the field, ConflictError once started.

    Locked first: a change that comes while another request starts the import must not take staged rows from under its worker.
    """
    db.refresh(entry, with_for_update=True)
    require_draft(entry)
    chosen = find_format(form.get("format", entry.format))
    options = _told(entry, chosen.name, form)
    kept = entry.format, entry.options, entry.preview
    entry.format = chosen.name
    entry.options = options.as_dict()
    try:
        if chosen.has_columns and not options.mapping:
            assert entry.path is not None
            names = columns_of(artifact_path(entry.path), chosen, options, entry.filename)
            entry.options = entry.options | {"mapping": columns.guess(names)}
        look(entry)
    except InvalidError:
        entry.format, entry.options, entry.preview = kept
        raise
    entry.num_rows = entry.num_rejected = entry.bytes_read = 0
    entry.rejected = []
    forget_rows(db, entry.id)
    db.flush()


def _told(entry: Import, name: str, form: Mapping[str, str]) -> Options:
    encoding, delimiter = form.get("encoding", ""), form.get("delimiter", "").replace("tab", "\t")
    if encoding and encoding not in ENCODINGS:
        raise InvalidError("The encoding is not known.", fields={"encoding": f"one of {', '.join(ENCODINGS)}"})
    if delimiter and delimiter not in DELIMITERS:
        raise InvalidError("The delimiter is not known.", fields={"delimiter": "a comma, semicolon, tab or bar"})
    looked = entry.preview or {}
    known = set(looked.get("columns", []))
    # Under another encoding or delimiter the columns have other names: the mapping is guessed anew.
    same = name == entry.format and all(
        not told or told == (entry.options.get(key) or looked.get(key))
        for key, told in (("encoding", encoding), ("delimiter", delimiter))
    )
    chosen = {key: form[f"map_{key}"] for key in columns.FIELDS if same and form.get(f"map_{key}")}
    unknown = next((key for key, column in chosen.items() if column not in known), None)
    if unknown is not None:
        raise InvalidError("The column is not there.", fields={f"map_{unknown}": "choose one of the file's columns"})
    return Options(
        mapping=chosen,
        encoding=encoding,
        delimiter=delimiter,
        question=form.get("question", "").strip()[:200],
        up=form.get("up", "").strip()[:500],
        down=form.get("down", "").strip()[:500],
    )


def require_draft(entry: Import) -> None:
    if entry.status != "draft":
        raise ConflictError("This import has been started already.", remedy="Look at its page for what became of it.")


def start(db: Session, entry: Import, *, user: User | None = None, check_only: bool = False, ring: bool = True) -> None:
    """Queue the draft. ``check_only``: read the whole file, store nothing, and it is a draft again. A second start is refused."""
    options = {key: value for key, value in entry.options.items() if key != "check_only"}
    if check_only:
        options["check_only"] = True
    done = db.scalar(
        update(Import)
        .where(Import.id == entry.id, Import.status == "draft")
        .values(
            status="queued",
            options=options,
            attempt=0,
            lease_until=None,
            started_at=utcnow(),
            finished_at=None,
            cancel_requested=False,
            error=None,
        )
        .returning(Import.id)
    )
    if done is None:
        db.refresh(entry)
        require_draft(entry)
    if ring:
        enqueue(db, TASK, entry.id)
    if not check_only:
        record(
            db,
            "import.started",
            project_id=entry.project_id,
            user_id=user.id if user else None,
            subject=entry.filename,
            format=entry.format,
        )
    db.refresh(entry)


def cancel(db: Session, entry: Import, *, user: User | None = None) -> bool:
    """At once where nobody works on it, else as soon as its worker looks. False where it is over already."""
    asked = db.scalar(
        update(Import)
        .where(Import.id == entry.id, Import.status.in_(CANCELLABLE))
        .values(cancel_requested=True)
        .returning(Import.status)
    )
    if asked is None:
        return False
    record(
        db,
        "import.cancelled",
        project_id=entry.project_id,
        user_id=user.id if user else None,
        subject=entry.filename,
    )
    if asked in ("draft", "queued"):
        finish(db, entry.id, status="cancelled", error=None)
    db.refresh(entry)
    return True


def put_back(db: Session, import_id: int) -> None:
    """A started import becomes a draft again, with what is staged: started once more, it goes on from there."""
    db.execute(
        update(Import)
        .where(Import.id == import_id, Import.status.in_(OPEN), ~Import.cancel_requested)
        .values(status="draft", lease_until=None, attempt=Import.attempt + 1)
    )


def finish(db: Session, import_id: int, *, status: str, error: str | None) -> None:
    """The end of an import that stores nothing: staged rows, prompts that only it brought, and the file are removed."""
    forget_rows(db, import_id)
    path = db.scalar(select(Import.path).where(Import.id == import_id).with_for_update())
    db.execute(
        update(Import)
        .where(Import.id == import_id)
        .values(status=status, error=error, path=None, lease_until=None, finished_at=utcnow(), preview=None)
    )
    remove_file(db, path)


def remove_file(db: Session, path: str | None) -> None:
    """Once the row no longer names it."""
    if path is not None:
        after_commit(db, lambda: artifact_path(path).unlink(missing_ok=True))


def forget_rows(db: Session, import_id: int) -> None:
    """Staged rows, and prompts of the project that no completion has.

    Prompts are locked before they are looked at again: an app's completion that comes for one of them in between keeps it.
    """
    had = db.execute(delete(ImportRow).where(ImportRow.import_id == import_id).returning(ImportRow.number)).first()
    if had is None:
        return
    project_id = db.scalar(select(Import.project_id).where(Import.id == import_id))
    no_completion = ~select(Completion.id).where(Completion.prompt_id == Prompt.id).exists()
    orphans = select(Prompt.id).where(Prompt.project_id == project_id, no_completion)
    while locked := db.scalars(orphans.limit(10_000).with_for_update(skip_locked=True)).all():
        gone = db.execute(delete(Prompt).where(Prompt.id.in_(locked), no_completion).returning(Prompt.id)).all()
        if not gone:
            return


def drop_old_drafts(db: Session) -> None:
    """A file that nobody started is not kept for ever."""
    before = utcnow() - timedelta(days=DRAFT_DAYS)
    old = select(Import.id).where(Import.status == "draft", Import.created_at < before)
    for import_id in db.scalars(old.limit(100).with_for_update(skip_locked=True)).all():
        finish(db, import_id, status="cancelled", error=f"It was not started within {DRAFT_DAYS} days.")
