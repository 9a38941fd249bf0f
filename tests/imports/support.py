"""Files of feedback and imports of them."""

from __future__ import annotations

import io
import json
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.db import session_scope
from app.feedback.imports import drafts
from app.models import Completion, Import, ImportRow, Project, Prompt, Rating


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"Question {number}?", "completion": f"Answer {number}.", "label": number % 2 == 0, **more}


def jsonl(rows: list[Any]) -> io.BytesIO:
    return io.BytesIO("\n".join(each if isinstance(each, str) else json.dumps(each) for each in rows).encode())


def queued(project_id: int, file: io.BytesIO, *, filename: str = "f.jsonl", **options: Any) -> int:
    """The id of an import that waits for a worker."""
    with session_scope() as db:
        project = db.get_one(Project, project_id)
        entry = drafts.make_draft(db, project, file, filename=filename, **options)
        drafts.start(db, entry, ring=False)
        return entry.id


def counts(db: Session) -> dict[str, int]:
    tables = (Prompt, Completion, Rating, ImportRow)
    return {table.__tablename__: db.scalar(select(func.count()).select_from(table)) or 0 for table in tables}


def stored(import_id: int) -> Import:
    with session_scope() as db:
        return db.get_one(Import, import_id)
