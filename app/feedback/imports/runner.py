"""Runs an import: rows are checked and staged in committed chunks, then published in one transaction.

After a kill while staging the next attempt goes on behind the last committed chunk; after a kill while publishing the
database has taken everything back, and publishing begins again. See docs/adr/0008-imports-are-staged-then-published.md.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.errors import InvalidError, StudioError
from app.core.storage import artifact_path
from app.feedback.bulk import insert_rows
from app.feedback.importers import record_import
from app.feedback.imports import drafts
from app.feedback.imports.counting import Chunk, Outcome, Tally, chunks, why_nothing
from app.feedback.imports.formats import checked_rows, find_format
from app.feedback.imports.leases import CancelledError, Heartbeat, Job, LostError, claim, write
from app.feedback.imports.reading import Watched, opened
from app.feedback.imports.values import Options
from app.feedback.schemas import FeedbackItem
from app.feedback.service import ingest, store_prompts_of
from app.models import Import, ImportRow, Project

PUBLISH_ROWS = 1000
REPORT_SECONDS = 0.5
WAIT_SECONDS = 0.5
_STAGE = text(
    """
    INSERT INTO import_rows (import_id, number, line, item)
    SELECT :project, r.* FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(number bigint, line bigint, item jsonb)
    ON CONFLICT DO NOTHING
    """
)
Watch = Callable[[], None]


@dataclass(frozen=True)
class Plan:
    """What the row says, read once."""

    job: Job
    project_id: int
    path: str
    filename: str
    source: str
    format: str
    options: Options
    check_only: bool
    size_bytes: int


def run_import(import_id: int, *, watch: Watch | None = None) -> None:
    """Harmless to repeat: a second worker finds nothing to claim. ``watch`` is called between chunks and may raise."""
    with session_scope() as db:
        job = claim(db, import_id)
        if job is None:
            return
        entry = db.get_one(Import, import_id)
        status, plan, tally = entry.status, _plan(job, entry), _tally(entry)
    heart = Heartbeat(job)
    try:
        with heart.beating():
            if status == "staging":
                _stage(plan, tally, heart, watch)
                if plan.check_only:
                    return
            _publish(plan, watch)
    except LostError:
        return
    except CancelledError:
        _end(job, "cancelled", None)
    except StudioError as error:
        _end(job, "failed", f"{error.message} {error.remedy}".replace("Nothing was imported.", "").strip())
    except FileNotFoundError:
        _end(job, "failed", "The uploaded file is gone. Upload it again.")


def _plan(job: Job, entry: Import) -> Plan:
    return Plan(
        job=job,
        project_id=entry.project_id,
        path=entry.path or "",
        filename=entry.filename,
        source=entry.source,
        format=entry.format,
        options=Options.of(entry.options),
        check_only=bool(entry.options.get("check_only")),
        size_bytes=entry.size_bytes,
    )


def _tally(entry: Import) -> Tally:
    return Tally(entry.num_rows, entry.num_rejected, list(entry.rejected))


def _end(job: Job, status: str, error: str | None) -> None:
    with session_scope() as db:
        ours = select(Import.id).where(Import.id == job.import_id, Import.attempt == job.attempt).with_for_update()
        if db.scalar(ours) is not None:
            drafts.finish(db, job.import_id, status=status, error=error)


def _stage(plan: Plan, tally: Tally, heart: Heartbeat, watch: Watch | None) -> None:
    """Read behind what is staged already, one commit per chunk."""
    with (
        io.BufferedReader(Watched(artifact_path(plan.path), heart.check)) as file,
        opened(file, plan.filename) as source,
    ):
        rows = islice(checked_rows(source, find_format(plan.format), plan.options), tally.num_rows, None)
        for chunk in chunks(rows, tally):
            with session_scope() as db:
                write(
                    db,
                    plan.job,
                    num_rows=tally.num_rows,
                    num_rejected=tally.num_rejected,
                    rejected=tally.rejected,
                    bytes_read=source.position,
                )
                if chunk.items and not plan.check_only:
                    _stage_chunk(db, plan, chunk)
            if watch is not None:
                watch()
    words = why_nothing(tally)
    with session_scope() as db:
        if plan.check_only:
            _back_to_draft(db, plan, tally)
            return
        if words is None:
            write(db, plan.job, status="publishing", bytes_read=plan.size_bytes)
    if words is not None:
        raise InvalidError(words)


def _stage_chunk(db: Session, plan: Plan, chunk: Chunk) -> None:
    """The prompts go into their table now: shown nowhere without completions, and nobody waits for them later."""
    rows = [
        {"number": number, "line": line, "item": item.model_dump(mode="json", exclude_defaults=True)}
        for number, line, item in zip(chunk.numbers, chunk.lines, chunk.items, strict=True)
    ]
    insert_rows(db, _STAGE, plan.job.import_id, rows)
    project = db.get_one(Project, plan.project_id)
    store_prompts_of(db, project, chunk.items)


def _back_to_draft(db: Session, plan: Plan, tally: Tally) -> None:
    entry = db.get_one(Import, plan.job.import_id)
    looked = {
        "looked_at": tally.num_rows,
        "num_rejected": tally.num_rejected,
        "rejected": tally.rejected,
        "whole": True,
    }
    write(
        db,
        plan.job,
        status="draft",
        preview={**(entry.preview or {}), **looked},
        options=plan.options.as_dict(),
        num_rows=0,
        num_rejected=0,
        bytes_read=0,
        rejected=[],
        started_at=None,
    )


def _publish(plan: Plan, watch: Watch | None) -> None:
    """Everything in one transaction; progress goes through another connection. Raises LostError and CancelledError."""
    with session_scope() as db:
        _take_turn(db, plan)
        project = db.get_one(Project, plan.project_id)
        entry = db.scalars(select(Import).where(Import.id == plan.job.import_id)).one()
        tally, outcome = _tally(entry), Outcome()
        db.expunge(entry)
        number, published, reported = 0, 0, 0.0
        while rows := _staged(db, plan.job.import_id, number):
            number = rows[-1].number
            items = [FeedbackItem.model_validate(row.item) for row in rows]
            outcome.add((row.line for row in rows), ingest(db, project, items, plan.source, from_file=True), tally)
            published += len(rows)
            if time.monotonic() - reported > REPORT_SECONDS:
                with session_scope() as other:
                    write(other, plan.job, num_published=published)
                reported = time.monotonic()
            if watch is not None:
                watch()
        db.execute(delete(ImportRow).where(ImportRow.import_id == plan.job.import_id))
        _finish(db, plan, tally, outcome, published)


def _take_turn(db: Session, plan: Plan) -> None:
    """One import of a project is published at a time; the lease is kept while it waits."""
    lock = select(func.pg_try_advisory_xact_lock(func.hashtext("import"), plan.project_id))
    while not db.scalar(lock):
        with session_scope() as other:
            write(other, plan.job)
        time.sleep(WAIT_SECONDS)


def _staged(db: Session, import_id: int, after: int) -> list[Any]:
    query = select(ImportRow.number, ImportRow.line, ImportRow.item).where(
        ImportRow.import_id == import_id, ImportRow.number > after
    )
    return list(db.execute(query.order_by(ImportRow.number).limit(PUBLISH_ROWS)))


def _finish(db: Session, plan: Plan, tally: Tally, outcome: Outcome, published: int) -> None:
    """Fenced: an attempt that is no longer the newest, or was cancelled meanwhile, takes everything back."""
    write(
        db,
        plan.job,
        status="succeeded",
        num_published=published,
        num_created=outcome.created,
        num_updated=outcome.updated,
        num_duplicate=outcome.duplicate,
        num_rejected=tally.num_rejected,
        rejected=sorted(tally.rejected, key=lambda row: row["line"]),
        path=None,
        finished_at=utcnow(),
        preview=None,
    )
    db.execute(update(Import).where(Import.id == plan.job.import_id).values(lease_until=None))
    drafts.remove_file(db, plan.path)
    db.expire_all()
    record_import(db, db.get_one(Import, plan.job.import_id))
