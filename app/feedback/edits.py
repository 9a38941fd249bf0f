"""An annotator's edit of an answer, as text."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import InvalidError
from app.feedback.messages import messages_text, parse_completion
from app.feedback.outputs import completion_hash, insert_completions
from app.feedback.pii import policy_of, screen_values
from app.models import Completion, Project, Prompt


def checked_edit(text: str) -> str | None:
    """None where nothing was written. Raises InvalidError for what cannot be stored."""
    words = text.replace("\r\n", "\n").strip()
    if not words:
        return None
    if "\x00" in words:
        raise InvalidError("The correction does not fit.", fields={"correction": "holds a NUL character"})
    try:
        parse_completion(words)
    except ValueError as error:
        raise InvalidError("The correction does not fit.", fields={"correction": str(error)}) from error
    return words


def store_edit(db: Session, project_id: int, completion_id: int, text: str) -> int | None:
    """The edit as a completion without a model, to the same prompt; None where it changes nothing."""
    query = (
        select(Completion, Prompt.content_hash)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Completion.project_id == project_id, Completion.id == completion_id)
    )
    original, of_prompt = db.execute(query).one()
    if messages_text(original.messages).strip() == text.strip():
        return None
    changed, found_pii = screen_values(policy_of(db.get_one(Project, project_id)), {"correction": text})
    messages = parse_completion(changed.get("correction", text))
    digest = completion_hash(of_prompt, messages, None, None)
    values = {
        "prompt_id": original.prompt_id,
        "content_hash": digest,
        "messages": messages,
        "text": messages_text(messages),
        "model": None,
        "finish_reason": None,
        "external_id": None,
        "sampling": {},
        "corrects_id": completion_id,
        "pii": found_pii,
        "metadata": {"kind": "correction"},
    }
    found, _ = insert_completions(db, project_id, {digest: values})
    return found[digest]
