"""Many rows in one statement of constant text: they travel as one JSON parameter.

A VALUES list of a thousand rows has eight thousand parameters, and naming and parsing these took longer than the insert.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, TextClause, func, select, text
from sqlalchemy.orm import Session

INSERT_PROMPTS = text(
    """
    INSERT INTO prompts (project_id, content_hash, messages, category, conversation_id, root)
    SELECT :project, r.* FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(content_hash text, messages jsonb, category text, conversation_id text, root text)
    ORDER BY content_hash
    ON CONFLICT DO NOTHING
    """
)
INSERT_COMPLETIONS = text(
    """
    INSERT INTO completions
        (project_id, id, prompt_id, content_hash, messages, text, model, finish_reason, external_id, metadata)
    SELECT :project, r.* FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(id bigint, prompt_id bigint, content_hash text, messages jsonb, text text, model text, finish_reason text,
             external_id text, metadata jsonb)
    ORDER BY content_hash
    ON CONFLICT DO NOTHING
    RETURNING content_hash
    """
)
INSERT_RATINGS = text(
    """
    INSERT INTO ratings
        (project_id, id, completion_id, source, rater, value, reasons, comment, external_id, metadata, occurred_at, is_current)
    SELECT :project, r.* FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(id bigint, completion_id bigint, source text, rater text, value boolean, reasons jsonb, comment text,
             external_id text, metadata jsonb, occurred_at timestamptz, is_current boolean)
    """
)


def insert_rows(db: Session, statement: TextClause, project_id: int, rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Runs one of the statements above. Returns the first column of what it returns, if anything."""
    packed = json.dumps(rows, ensure_ascii=False, allow_nan=False, default=_moment)
    result = cast("CursorResult[Any]", db.execute(statement, {"project": project_id, "rows": packed}))
    return [row[0] for row in result] if result.returns_rows else []


def _moment(value: Any) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()


def fresh_ids(db: Session, table: str, count: int) -> list[int]:
    """Ids of rows to come, ascending: these are written in another order than they are numbered in."""
    series = func.generate_series(1, count).table_valued("n")
    return sorted(db.scalars(select(func.nextval(func.pg_get_serial_sequence(table, "id"))).select_from(series)))
