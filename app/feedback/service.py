"""Store feedback: prompts, completions and verdicts of many items with a handful of statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, Text, any_, func, literal, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.core.errors import NotFoundError, UnavailableError
from app.core.ids import content_hash
from app.feedback.bulk import INSERT_COMPLETIONS, INSERT_PROMPTS, fresh_ids, insert_rows
from app.feedback.messages import conversation_root, messages_text
from app.feedback.queue_fill import queue_completions
from app.feedback.ratings import Verdict, rater_key, store_verdicts
from app.feedback.schemas import FeedbackItem, FeedbackOut, ItemResult
from app.models import Completion, Project, Prompt, Rating

_TRIES = 5
_WAIT_SECONDS = 3
_TRY_AGAIN = {"40P01", "55P03"}
"""Deadlock, lock timeout."""


@dataclass(slots=True)
class _Prepared:
    item: FeedbackItem
    prompt_hash: str
    completion_hash: str
    completion_id: int | None = None
    is_new: bool = False
    error: str = ""


def prompt_hash(messages: list[dict[str, Any]], category: str | None, conversation_id: str | None) -> str:
    return content_hash([messages, category, conversation_id])


def completion_hash(
    of_prompt: str, messages: list[dict[str, Any]], model: str | None, finish_reason: str | None
) -> str:
    return content_hash([of_prompt, messages, model, finish_reason])


def _prepare(item: FeedbackItem) -> _Prepared:
    of_prompt = prompt_hash(item.prompt, item.category, item.conversation_id)
    return _Prepared(item, of_prompt, completion_hash(of_prompt, item.completion, item.model, item.finish_reason))


def ingest(
    db: Session, project: Project, items: Sequence[FeedbackItem], source: str, *, from_file: bool = False
) -> list[ItemResult]:
    """Store ``items`` (at most some thousand) in one savepoint and say for each what became of it, in order.

    The same item again is unchanged. ``from_file``: so is a verdict that its rater gave once and changed since, because files
    are read again. Two writers that lock the same texts in opposite order are told apart by PostgreSQL's deadlock check; only
    a file holds locks over several calls, so everyone else waits a bounded time, lets go and tries again.
    Raises UnavailableError when a file that is being imported holds the same texts for too long.
    """
    for _ in range(_TRIES):
        try:
            with db.begin_nested():
                if not from_file:
                    db.execute(select(func.set_config("lock_timeout", f"{_WAIT_SECONDS}s", True)))
                return _ingest(db, project, [_prepare(item) for item in items], source, skip_history=from_file)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in _TRY_AGAIN:
                raise
    raise UnavailableError("The same texts are being written by an import.", remedy="Send the items again in a minute.")


def _ingest(
    db: Session, project: Project, rows: list[_Prepared], source: str, *, skip_history: bool
) -> list[ItemResult]:
    _find_by_external_id(db, project, rows)
    prompt_ids = _store_prompts(db, project, [row for row in rows if row.completion_id is None and not row.error])
    _store_completions(db, project, [row for row in rows if row.completion_id is None and not row.error], prompt_ids)
    rated = [row for row in rows if row.completion_id is not None and row.item.label is not None]
    verdicts = [_verdict(row) for row in rated]
    outcomes = store_verdicts(db, project.id, source, verdicts, skip_history=skip_history)
    unlabelled = [row.completion_id for row in rows if row.is_new and row.item.label is None and row.completion_id]
    if unlabelled:
        queue_completions(db, project, unlabelled)
    of_row = {id(row): outcome for row, outcome in zip(rated, outcomes, strict=True)}
    return [_result(index, row, of_row.get(id(row))) for index, row in enumerate(rows)]


def _result(index: int, row: _Prepared, outcome: tuple[Any, int] | None) -> ItemResult:
    if row.error:
        return ItemResult(
            index=index, status="error", message="The item does not fit.", fields={"completion_id": row.error}
        )
    if outcome is None:
        return ItemResult(index=index, status="created" if row.is_new else "unchanged", output_id=row.completion_id)
    return ItemResult(index=index, status=outcome[0], id=outcome[1], output_id=row.completion_id)


def _verdict(row: _Prepared) -> Verdict:
    item = row.item
    assert row.completion_id is not None
    assert item.label is not None
    return Verdict(
        row.completion_id,
        rater_key(item.rater, external_id=item.external_id, completion_id=item.completion_id, value=item.label),
        item.label,
        item.reasons,
        item.comment,
        item.occurred_at,
        item.external_id,
        item.metadata,
    )


def _find_by_external_id(db: Session, project: Project, rows: list[_Prepared]) -> None:
    """An app's output id names one output: the same texts are that one even where the model's name is left out now."""
    wanted = [row.item.completion_id for row in rows if row.item.completion_id]
    if not wanted:
        return
    query = (
        select(Completion.external_id, Completion.id, Completion.messages, Prompt.messages)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Completion.project_id == project.id, Completion.external_id == any_(literal(wanted, ARRAY(Text))))
    )
    known: dict[str | None, tuple[int | None, Any, Any]] = {
        external: (key, answer, asked) for external, key, answer, asked in db.execute(query)
    }
    for row in rows:
        item = row.item
        if not item.completion_id:
            continue
        key, answer, asked = known.setdefault(item.completion_id, (None, item.completion, item.prompt))
        if answer != item.completion or asked != item.prompt:
            row.error = f"{item.completion_id} is already the id of another output; use one id per output"
        row.completion_id = None if row.error else key


def _store_prompts(db: Session, project: Project, rows: list[_Prepared]) -> dict[str, int]:
    """Prompt hash -> id. Written in the order of the hashes, so that two writers take their locks in one order."""
    values = {
        row.prompt_hash: {
            "content_hash": row.prompt_hash,
            "messages": row.item.prompt,
            "category": row.item.category,
            "conversation_id": row.item.conversation_id,
            "root": conversation_root(row.item.prompt, row.item.conversation_id),
        }
        for row in rows
    }
    if not values:
        return {}
    insert_rows(db, INSERT_PROMPTS, project.id, list(values.values()))
    query = select(Prompt.content_hash, Prompt.id).where(
        Prompt.project_id == project.id, Prompt.content_hash == any_(literal(list(values), ARRAY(Text)))
    )
    return dict(db.execute(query).all())


def _store_completions(db: Session, project: Project, rows: list[_Prepared], prompt_ids: dict[str, int]) -> None:
    """Fills ``completion_id`` and ``is_new``, or ``error`` where another writer took the output's id meanwhile."""
    values: dict[str, dict[str, Any]] = {}
    for row in rows:
        item = row.item
        values.setdefault(
            row.completion_hash,
            {
                "prompt_id": prompt_ids[row.prompt_hash],
                "content_hash": row.completion_hash,
                "messages": item.completion,
                "text": messages_text(item.completion),
                "model": item.model,
                "finish_reason": item.finish_reason,
                "external_id": item.completion_id,
                "metadata": item.metadata,
            },
        )
    if not values:
        return
    # Written in the order of the hashes, numbered in the order of the items: lists show a file as it was.
    for value, number in zip(values.values(), fresh_ids(db, "completions", len(values)), strict=True):
        value["id"] = number
    fresh = set(insert_rows(db, INSERT_COMPLETIONS, project.id, list(values.values())))
    query = select(Completion.content_hash, Completion.id).where(
        Completion.project_id == project.id, Completion.content_hash == any_(literal(list(values), ARRAY(Text)))
    )
    ids = dict(db.execute(query).all())
    for row in rows:
        row.completion_id = ids.get(row.completion_hash)
        row.is_new = row.completion_hash in fresh
        fresh.discard(row.completion_hash)
        if row.completion_id is None:
            row.error = f"{row.item.completion_id} is already the id of another output; use one id per output"


def feedback_out(rating: Rating) -> FeedbackOut:
    completion, prompt = rating.completion, rating.completion.prompt
    return FeedbackOut(
        id=rating.id,
        output_id=completion.id,
        prompt=prompt.messages,
        completion=completion.messages,
        label=rating.value,
        category=prompt.category,
        model=completion.model,
        source=rating.source,
        rater=rating.rater,
        conversation_id=prompt.conversation_id,
        external_id=rating.external_id,
        completion_id=completion.external_id,
        finish_reason=completion.finish_reason,
        reasons=rating.reasons,
        comment=rating.comment,
        metadata=rating.extra,
        is_current=rating.is_current,
        occurred_at=rating.occurred_at,
        created_at=rating.created_at,
    )


def get_feedback(db: Session, project: Project, rating_id: int) -> Rating:
    """Raises NotFoundError, also for another project's rating."""
    rating = db.scalar(select(Rating).where(Rating.project_id == project.id, Rating.id == rating_id))
    if rating is None:
        raise NotFoundError("There is no such feedback in this project.")
    return rating
