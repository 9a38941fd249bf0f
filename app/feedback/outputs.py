"""Prompts and completions of a batch: found, or stored with a handful of statements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Text, any_, bindparam, literal, select, text
from sqlalchemy.orm import Session

from app.core.ids import content_hash
from app.feedback.bulk import INSERT_COMPLETIONS, INSERT_PROMPTS, INSERT_SUBJECTS, fresh_ids, insert_rows
from app.feedback.messages import conversation_root, messages_text
from app.feedback.pii import screen
from app.feedback.schemas import FeedbackItem, Thumb
from app.models import Completion, Project, Prompt


@dataclass(slots=True)
class Row:
    """One item on its way into the tables."""

    item: FeedbackItem | Thumb
    prompt_hash: str = ""
    completion_hash: str = ""
    pii: dict[str, int] | None = None
    completion_id: int | None = None
    edit_id: int | None = None
    """Of the completion that is the rater's correction."""
    is_new: bool = False
    is_pending: bool = False
    field: str = ""
    error: str = ""

    def refuse(self, field: str, error: str) -> None:
        self.field, self.error = field, error


def prompt_hash(messages: list[dict[str, Any]], category: str | None, conversation_id: str | None) -> str:
    return content_hash([messages, category, conversation_id])


def completion_hash(
    of_prompt: str, messages: list[dict[str, Any]], model: str | None, finish_reason: str | None
) -> str:
    return content_hash([of_prompt, messages, model, finish_reason])


def prepare(project: Project, sent: FeedbackItem | Thumb) -> Row:
    """Looks for personal data first: hashes are those of what is stored."""
    if isinstance(sent, Thumb):
        return Row(screen(project, sent)[0])
    item, pii = screen(project, sent)
    of_prompt = prompt_hash(item.prompt, item.category, item.conversation_id)
    return Row(item, of_prompt, completion_hash(of_prompt, item.completion, item.model, item.finish_reason), pii)


def store_outputs(db: Session, project: Project, rows: list[Row]) -> None:
    """Gives every row its ``completion_id``, or ``error``; thumbs on an output that is not here stay without one."""
    known = _find_by_external_id(db, project, rows)
    fresh = [row for row in rows if row.prompt_hash and row.completion_id is None and not row.error]
    if fresh:
        _store_completions(db, project, fresh, store_prompts(db, project, fresh))
        known |= {row.item.completion_id: row.completion_id for row in fresh if row.completion_id is not None}
    _find_thumbs_outputs(db, project, rows, known)
    _store_subjects(db, project, rows)


_BY_EXTERNAL_ID = text(
    """
    SELECT c.external_id, c.id, c.messages, p.messages FROM completions c JOIN prompts p ON p.id = c.prompt_id
    WHERE c.project_id = :project AND c.external_id = ANY(CAST(:wanted AS text[]))
    """
)


def _find_by_external_id(db: Session, project: Project, rows: list[Row]) -> dict[str | None, int | None]:
    """An app's output id names one output: the same texts are that one even where the model's name is left out now."""
    wanted = list({row.item.completion_id for row in rows if row.item.completion_id})
    if not wanted:
        return {}
    found = db.execute(_BY_EXTERNAL_ID, {"project": project.id, "wanted": wanted})
    known: dict[str | None, tuple[int | None, Any, Any]] = {
        external: (key, answer, asked) for external, key, answer, asked in found
    }
    ids: dict[str | None, int | None] = {external: key for external, (key, _, _) in known.items()}
    for row in rows:
        item = row.item
        if not item.completion_id or isinstance(item, Thumb):
            continue
        key, answer, asked = known.setdefault(item.completion_id, (None, item.completion, item.prompt))
        if answer != item.completion or asked != item.prompt:
            row.refuse("completion_id", _taken(item.completion_id))
        else:
            row.completion_id = key
    return ids


def _taken(external_id: str | None) -> str:
    return f"{external_id} is already the id of another output; use one id per output"


_THERE = select(Completion.id).where(
    Completion.project_id == bindparam("project"), Completion.id == any_(bindparam("ids", type_=ARRAY(BigInteger)))
)


def _find_thumbs_outputs(db: Session, project: Project, rows: list[Row], known: dict[str | None, int | None]) -> None:
    """Thumbs name an output that is stored, or comes in the same batch."""
    ours = [row.item.output_id for row in rows if isinstance(row.item, Thumb) and row.item.output_id is not None]
    there = set(db.scalars(_THERE, {"project": project.id, "ids": ours})) if ours else set()
    for row in rows:
        item = row.item
        if not isinstance(item, Thumb):
            continue
        if item.output_id is None:
            row.completion_id = known.get(item.completion_id)
        elif item.output_id in there:
            row.completion_id = item.output_id
        else:
            row.refuse("output_id", "there is no such output in this project")


def store_prompts(db: Session, project: Project, rows: list[Row]) -> dict[str, int]:
    """Prompt hash -> id. Written in the order of the hashes, so that two writers take their locks in one order."""
    values: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.prompt_hash in values:
            continue
        item = row.item
        assert isinstance(item, FeedbackItem)
        values[row.prompt_hash] = {
            "content_hash": row.prompt_hash,
            "messages": item.prompt,
            "category": item.category,
            "conversation_id": item.conversation_id,
            "root": conversation_root(item.prompt, item.conversation_id),
        }
    ids = dict(insert_rows(db, INSERT_PROMPTS, project.id, list(values.values())))
    missing = [value for value in values if value not in ids]
    if missing:
        query = select(Prompt.content_hash, Prompt.id).where(
            Prompt.project_id == project.id, Prompt.content_hash == any_(literal(missing, ARRAY(Text)))
        )
        ids |= dict(db.execute(query).all())
    return ids


def insert_completions(
    db: Session, project_id: int, values: dict[str, dict[str, Any]]
) -> tuple[dict[str, int], set[str]]:
    """Hash -> id of each of ``values`` (hash -> columns), and the hashes of those that were not there before.

    Written in the order of the hashes, numbered in the order of the items: lists show a file as it was. A value whose
    ``external_id`` another output has meanwhile has no id.
    """
    for value, number in zip(values.values(), fresh_ids(db, "completions", len(values)), strict=True):
        value["id"] = number
    fresh = {digest for (digest,) in insert_rows(db, INSERT_COMPLETIONS, project_id, list(values.values()))}
    ids = {digest: values[digest]["id"] for digest in fresh}
    missing = [digest for digest in values if digest not in fresh]
    if missing:
        query = select(Completion.content_hash, Completion.id).where(
            Completion.project_id == project_id, Completion.content_hash == any_(literal(missing, ARRAY(Text)))
        )
        ids |= dict(db.execute(query).all())
    return ids, fresh


def _store_completions(db: Session, project: Project, rows: list[Row], prompt_ids: dict[str, int]) -> None:
    """Fills ``completion_id`` and ``is_new``, or ``error`` where another writer took the output's id meanwhile."""
    values: dict[str, dict[str, Any]] = {}
    for row in rows:
        item = row.item
        if row.completion_hash in values:
            continue
        assert isinstance(item, FeedbackItem)
        values[row.completion_hash] = {
            "prompt_id": prompt_ids[row.prompt_hash],
            "content_hash": row.completion_hash,
            "messages": item.completion,
            "text": messages_text(item.completion),
            "model": item.model,
            "finish_reason": item.finish_reason,
            "external_id": item.completion_id,
            "sampling": item.sampling,
            "pii": row.pii,
            "metadata": item.metadata,
        }
    ids, fresh = insert_completions(db, project.id, values)
    for row in rows:
        row.completion_id = ids.get(row.completion_hash)
        row.is_new = row.completion_hash in fresh
        fresh.discard(row.completion_hash)
    late = [row for row in rows if row.completion_id is None]
    _find_by_external_id(db, project, late)  # the same texts with another name of the model, in this batch or just now
    for row in late:
        if row.completion_id is None and not row.error:
            row.refuse("completion_id", _taken(row.item.completion_id))


def _store_subjects(db: Session, project: Project, rows: list[Row]) -> None:
    named = [
        {"subject": row.item.subject, "completion_id": row.completion_id}
        for row in rows
        if isinstance(row.item, FeedbackItem) and row.item.subject and row.completion_id is not None
    ]
    if named:
        insert_rows(db, INSERT_SUBJECTS, project.id, named)
