"""Words of completions, indexed behind the ingest: a thumb must not wait for a full-text index.

A task indexes what is new every few seconds. Ids are handed out before they are committed, so it looks some way back; an import
publishes rows whose ids are much older than its end, so a whole sweep follows it, and one comes by every half hour.
"""

from __future__ import annotations

from sqlalchemy import CursorResult, func, select, text
from sqlalchemy.orm import Session

from app.models import Completion, CompletionSearch, Project

BATCH = 2000
LOOK_BACK = 20_000
MAX_CHARS = 20_000
"""Of a completion; a document of PostgreSQL holds at most a megabyte of words."""
_LOCK = 0x6B7473

DOCUMENT = f"""
    to_tsvector('simple', left(c.text, {MAX_CHARS}) || ' ' || left(CASE
        WHEN jsonb_typeof(p.messages -> -1 -> 'content') = 'string' THEN p.messages -> -1 ->> 'content' ELSE '' END, {MAX_CHARS}))
    || array_to_tsvector(ARRAY['p#' || c.project_id])
"""
_INDEX = text(
    f"""
    INSERT INTO completion_search (completion_id, project_id, document)
    SELECT c.id, c.project_id, {DOCUMENT}
    FROM (
        SELECT c.* FROM completions c
        WHERE c.id > :after AND NOT EXISTS (SELECT FROM completion_search s WHERE s.completion_id = c.id)
        ORDER BY c.id LIMIT :batch
    ) c JOIN prompts p ON p.id = c.prompt_id
    ON CONFLICT DO NOTHING
    RETURNING completion_id
    """  # noqa: S608 -- a constant
)
_TAIL = text(
    f"""
    SELECT c.id FROM (
        SELECT c.* FROM completions c
        WHERE c.project_id = :project AND c.id > :after
          AND NOT EXISTS (SELECT FROM completion_search s WHERE s.completion_id = c.id)
        ORDER BY c.id DESC LIMIT :batch
    ) c JOIN prompts p ON p.id = c.prompt_id
    WHERE ({DOCUMENT}) @@ CAST(:words AS tsquery)
    """  # noqa: S608 -- a constant
)


def _newest_indexed(db: Session) -> int:
    return db.scalar(select(func.max(CompletionSearch.completion_id))) or 0


def index_some(db: Session, *, whole: bool = False) -> int:
    """Index up to ``BATCH`` completions that are not; returns how many these were. One process at a time: 0 for the others.

    ``whole``: look for them from the first completion on, else a little before the newest that is indexed.
    """
    if not db.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
        return 0
    after = 0 if whole else _newest_indexed(db) - LOOK_BACK
    found = db.execute(_INDEX, {"after": after, "batch": BATCH})
    return len(found.all()) if isinstance(found, CursorResult) else 0


def not_indexed_hits(db: Session, project: Project, words: str) -> list[int]:
    """Among the newest completions, those with the words that the index does not know yet. ``words``: as a tsquery's text."""
    values = {"project": project.id, "after": _newest_indexed(db) - LOOK_BACK, "batch": BATCH, "words": words}
    return list(db.scalars(_TAIL, values))


def is_behind(db: Session, project: Project) -> bool:
    """Whether so much is new that a search may miss some of it."""
    newest = db.scalar(select(func.max(Completion.id)).where(Completion.project_id == project.id)) or 0
    return newest > _newest_indexed(db) + BATCH
