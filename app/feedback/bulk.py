"""Many rows in one statement of constant text: they travel as one JSON parameter.

A VALUES list of a thousand rows has eight thousand parameters, and naming and parsing these took longer than the insert.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, TextClause, text
from sqlalchemy.orm import Session

INSERT_PROMPTS = text(
    """
    INSERT INTO prompts (project_id, content_hash, messages, category, conversation_id, root)
    SELECT :project, r.* FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(content_hash text, messages jsonb, category text, conversation_id text, root text)
    ORDER BY content_hash
    ON CONFLICT DO NOTHING
    RETURNING content_hash, id
    """
)
INSERT_COMPLETIONS = text(
    """
    INSERT INTO completions
        (project_id, id, prompt_id, content_hash, messages, text, model, finish_reason, external_id, sampling, corrects_id,
         pii, metadata)
    SELECT :project, r.* FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(id bigint, prompt_id bigint, content_hash text, messages jsonb, text text, model text, finish_reason text,
             external_id text, sampling jsonb, corrects_id bigint, pii jsonb, metadata jsonb)
    ORDER BY content_hash
    ON CONFLICT DO NOTHING
    RETURNING content_hash
    """
)
INSERT_SUBJECTS = text(
    """
    INSERT INTO completion_subjects (project_id, subject, completion_id)
    SELECT DISTINCT :project, r.subject, r.completion_id FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(subject text, completion_id bigint)
    ORDER BY r.subject, r.completion_id
    ON CONFLICT DO NOTHING
    """
)
INSERT_RATINGS = text(
    """
    INSERT INTO ratings
        (project_id, completion_id, source, rater, value, reasons, comment, external_id, correction_id, metadata,
         occurred_at, is_current)
    SELECT :project, r.completion_id, r.source, r.rater, r.value, r.reasons, r.comment, r.external_id, r.correction_id,
           r.metadata, r.occurred_at, r.is_current
    FROM ROWS FROM (
        jsonb_to_recordset(CAST(:rows AS jsonb))
            AS (completion_id bigint, source text, rater text, value boolean, reasons jsonb, comment text,
                external_id text, correction_id bigint, metadata jsonb, occurred_at timestamptz, is_current boolean)
    ) WITH ORDINALITY
        AS r(completion_id, source, rater, value, reasons, comment, external_id, correction_id, metadata, occurred_at,
             is_current, place)
    ORDER BY r.place
    RETURNING id
    """
)
"""Ids ascend in the order of the rows: PostgreSQL numbers what is inserted after it was sorted."""


def insert_rows(
    db: Session, statement: TextClause, project_id: int, rows: Sequence[dict[str, Any]]
) -> list[tuple[Any, ...]]:
    """Runs one of the statements above. Returns the rows that it returns, if any."""
    packed = json.dumps(rows, ensure_ascii=False, allow_nan=False, default=_as_text)
    result = cast("CursorResult[Any]", db.execute(statement, {"project": project_id, "rows": packed}))
    return [tuple(row) for row in result] if result.returns_rows else []


def _as_text(value: Any) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()


_FRESH_IDS = text(
    "SELECT nextval(pg_get_serial_sequence(:table, 'id')) FROM generate_series(1, CAST(:count AS integer))"
)


def fresh_ids(db: Session, table: str, count: int) -> list[int]:
    """Ids of rows to come, ascending: these are written in another order than they are numbered in."""
    return sorted(number for (number,) in db.execute(_FRESH_IDS, {"table": table, "count": count}))
