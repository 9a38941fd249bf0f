"""A rater's edit of an answer: a completion of its own, with no model, that says which one it corrects."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, BigInteger, any_, literal, select
from sqlalchemy.orm import Session

from app.feedback.messages import messages_text
from app.feedback.outputs import Row, completion_hash, insert_completions
from app.models import Completion, Project, Prompt


def store_edits(db: Session, project: Project, rows: list[Row]) -> None:
    """Fills ``edit_id`` of rows with a correction; refuses an edit that changes nothing."""
    corrected = [row for row in rows if row.item.correction is not None and row.completion_id is not None]
    corrected = [row for row in corrected if not row.error]
    if not corrected:
        return
    ids = list({row.completion_id for row in corrected})
    query = (
        select(Completion.id, Completion.messages, Prompt.id, Prompt.content_hash)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Completion.project_id == project.id, Completion.id == any_(literal(ids, ARRAY(BigInteger))))
    )
    originals = {key: (messages, prompt_id, digest) for key, messages, prompt_id, digest in db.execute(query)}
    values: dict[str, dict[str, Any]] = {}
    hashes: dict[int, str] = {}
    for row in corrected:
        messages, prompt_id, of_prompt = originals[row.completion_id]
        edit = row.item.correction
        assert edit is not None
        if edit == messages or messages_text(edit) == messages_text(messages):
            row.refuse("correction", "is the answer as it was; leave it out, or change it")
            continue
        digest = hashes[id(row)] = completion_hash(of_prompt, edit, None, None)
        values.setdefault(
            digest,
            {
                "prompt_id": prompt_id,
                "content_hash": digest,
                "messages": edit,
                "text": messages_text(edit),
                "model": None,
                "finish_reason": None,
                "external_id": None,
                "sampling": {},
                "corrects_id": row.completion_id,
                "pii": row.pii,
                "metadata": {"kind": "correction"},
            },
        )
    if values:
        found, _ = insert_completions(db, project.id, values)
        for row in corrected:
            if id(row) in hashes:
                row.edit_id = found[hashes[id(row)]]
