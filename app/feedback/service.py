"""Store feedback: prompts, completions and verdicts of many items with a handful of statements."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from app.core.errors import NotFoundError, UnavailableError
from app.feedback.corrections import store_edits
from app.feedback.outputs import Row, completion_hash, prepare, prompt_hash, store_outputs, store_prompts
from app.feedback.pending import forget_waiting, keep_waiting, missed, take_waiting
from app.feedback.queue_fill import queue_completions
from app.feedback.ratings import Stored, Verdict, rater_key, retract_by_external_id, store_verdicts
from app.feedback.schemas import FeedbackItem, FeedbackOut, ItemResult, Thumb
from app.models import Project, Rating

__all__ = [
    "completion_hash",
    "feedback_out",
    "get_feedback",
    "ingest",
    "join_missed",
    "prompt_hash",
    "store_prompts_of",
    "take_back",
]

_TRIES = 5
_LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '3s'")
_TRY_AGAIN = {"40P01", "55P03", "23505", "23503"}
"""Deadlock, lock timeout, a unique key that another writer took since it was looked for, and a prompt that was found
and then went: a cancelled import removes those that nobody else had used."""


def ingest(
    db: Session,
    project: Project,
    items: Sequence[FeedbackItem | Thumb],
    source: str,
    *,
    from_file: bool = False,
    put: bool = False,
) -> list[ItemResult]:
    """Store ``items`` (at most some thousand) in one savepoint and say for each what became of it, in order.

    The same item again is unchanged. ``from_file``: so is a verdict that its rater gave once and changed since, because files
    are read again. ``put``: a feedback's own id must be the one that its rater's verdict on the output has. Two writers that
    lock the same texts in opposite order are told apart by PostgreSQL's deadlock check; only a file holds locks over several
    calls, so everyone else waits a bounded time, lets go and tries again.
    Raises UnavailableError when a file that is being imported holds the same texts for too long.
    """
    for _ in range(_TRIES):
        try:
            with db.begin_nested():
                if not from_file:
                    db.execute(_LOCK_TIMEOUT)
                rows = [prepare(project, item) for item in items]
                return _ingest(db, project, rows, source, skip_history=from_file, put=put)
        except (OperationalError, IntegrityError) as error:
            if getattr(error.orig, "sqlstate", None) not in _TRY_AGAIN:
                raise
    raise UnavailableError("The same texts are being written by an import.", remedy="Send the items again in a minute.")


def store_prompts_of(db: Session, project: Project, items: Sequence[FeedbackItem]) -> None:
    """The prompts alone, ahead of ``ingest`` of the same items: without completions they are shown nowhere."""
    store_prompts(db, project, [prepare(project, item) for item in items])


def _ingest(
    db: Session, project: Project, rows: list[Row], source: str, *, skip_history: bool, put: bool
) -> list[ItemResult]:
    store_outputs(db, project, rows)
    _join(db, project, rows)
    homeless = [row for row in rows if row.completion_id is None and not row.error]
    keep_waiting(db, project, homeless, source, put=put)
    outcomes = _store_thumbs(db, project, rows, source, skip_history=skip_history, put=put)
    unlabelled = [row.completion_id for row in rows if row.is_new and row.item.value is None and row.completion_id]
    if unlabelled:
        queue_completions(db, project, unlabelled)
    return [_result(index, row, outcomes.get(id(row))) for index, row in enumerate(rows)]


def _join(db: Session, project: Project, rows: list[Row]) -> None:
    """Stores what waited for outputs that are here now."""
    for source, waited in take_waiting(db, project.id, rows).items():
        left = waited
        for _ in range(3):  # as it came; without its edit or its id; without both
            _store_thumbs(db, project, left, source, skip_history=False, put=False)
            left = [row for row in left if row.error]
            for row in left:  # its edit changes nothing, or its id is taken by now: the thumb counts all the same
                row.item = row.item.model_copy(update={row.field: None, "label": row.item.value})
                row.error = ""


def _store_thumbs(
    db: Session, project: Project, rows: list[Row], source: str, *, skip_history: bool, put: bool
) -> dict[int, Stored]:
    """By ``id(row)``. Fills ``error`` of rows whose correction or id does not fit."""
    store_edits(db, project, rows)
    rated = [row for row in rows if row.completion_id is not None and row.item.value is not None and not row.error]
    new = {row.completion_id for row in rows if row.is_new and row.completion_id is not None}
    verdicts = [_verdict(row, put=put) for row in rated]
    outcomes = store_verdicts(db, project.id, source, verdicts, skip_history=skip_history, new=new)
    for row, outcome in zip(rated, outcomes, strict=True):
        if outcome.conflict:
            row.refuse("external_id", outcome.conflict)
    return {id(row): outcome for row, outcome in zip(rated, outcomes, strict=True)}


def _result(index: int, row: Row, outcome: Stored | None) -> ItemResult:
    if row.error:
        fields = {row.field: row.error}
        return ItemResult(index=index, status="error", message="The item does not fit.", fields=fields)
    if row.is_pending:
        return ItemResult(index=index, status="pending")
    if outcome is None:
        return ItemResult(index=index, status="created" if row.is_new else "unchanged", output_id=row.completion_id)
    return ItemResult(
        index=index,
        status=outcome.outcome,
        id=outcome.rating_id,
        output_id=row.completion_id,
        correction_output_id=row.edit_id,
    )


def _verdict(row: Row, *, put: bool) -> Verdict:
    item = row.item
    assert row.completion_id is not None
    assert item.value is not None
    return Verdict(
        row.completion_id,
        rater_key(item.rater, external_id=item.external_id, completion_id=item.completion_id, value=item.value),
        item.value,
        item.reasons,
        item.comment,
        item.occurred_at,
        item.external_id,
        item.metadata,
        correction_id=row.edit_id,
        is_named=item.rater is not None,
        put=put,
    )


def take_back(db: Session, project: Project, source: str, external_id: str) -> bool:
    """Un-click of feedback by its own id, stored or waiting. False where there is none, which is no error."""
    waited = forget_waiting(db, project.id, source, external_id)
    return retract_by_external_id(db, project.id, source, external_id) or waited


def join_missed(db: Session) -> int:
    """Joins feedback that missed its output because both came at the same moment. Returns for how many outputs."""
    found = missed(db)
    for project_id, outputs in found.items():
        project = db.get_one(Project, project_id)
        named = [
            Row(Thumb.model_construct(completion_id=external_id), completion_id=completion_id)
            for external_id, completion_id in outputs.items()
        ]
        with db.begin_nested():
            _join(db, project, named)
    return sum(len(outputs) for outputs in found.values())


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
        correction_output_id=rating.correction_id,
        sampling=completion.sampling,
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
